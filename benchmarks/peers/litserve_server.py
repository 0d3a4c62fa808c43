"""Stock diffusers behind LitServe, as its documentation has it: `litserve_server.py PORT WORKERS BATCH`."""

from __future__ import annotations

import sys

import litserve
from fastapi import Response
from pipeline import draw, draw_each, load, png


class DiffusersAPI(litserve.LitAPI):
    def setup(self, device):
        self.pipeline = load()

    def decode_request(self, request):
        return request

    def predict(self, request):
        if isinstance(request, list):  # a batch of those who waited
            return draw_each(self.pipeline, request)
        return draw(self.pipeline, [request])[0]

    def encode_response(self, output):
        return Response(png(output), media_type="image/png")


if __name__ == "__main__":
    port, workers, batch = map(int, sys.argv[1:])
    api = DiffusersAPI(max_batch_size=batch, batch_timeout=0.05 if batch > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=False)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
