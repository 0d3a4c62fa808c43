"""Users for locust, each with a request at a time; LOCUST_NOTES gets a line of JSON for each of them."""

from __future__ import annotations

import itertools
import json
import os
import time

from locust import HttpUser, events, task

TAKES = itertools.count(1_000_000)


class Customer(HttpUser):
    @task
    def generate(self) -> None:
        take = next(TAKES)
        body = {
            "prompt": f"a red mug on a blue gradient background, take {take}",
            "seed": take,
            "num_inference_steps": int(os.environ["LOCUST_STEPS"]),
            "width": 128,
            "height": 128,
        }
        self.client.post("/generate-image", json=body)


@events.request.add_listener
def note(response_time, exception, **_):
    said = {"end": time.time(), "milliseconds": response_time, "error": str(exception) if exception else ""}
    with open(os.environ["LOCUST_NOTES"], "a") as notes:
        notes.write(json.dumps(said) + "\n")
