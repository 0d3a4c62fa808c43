"""What clients may tell and ask of a request that runs, by requests to `<family>_scheduler`."""

from families.spec import TensorSpec

CANCEL = TensorSpec(
    "cancel", "STRING", (1,), "id of the request to end before its next step, or as soon as it comes"
)
WATCH = TensorSpec("watch", "STRING", (1,), "id of the request to tell the progress of")
PROGRESS = TensorSpec(
    "progress",
    "STRING",
    (1,),
    "JSON: state (unknown, pending, running, cancelled), step, steps, seconds, eta_seconds",
)
PREVIEW = TensorSpec("preview", "UINT8", ("latent_height", "latent_width", 3), "RGB, a pixel per latent")
PRIORITY_CLASS = "priority_class"  # a request's parameter: one of
PRIORITIES = ("interactive", "batch")  # the first unless told
SENDS_CANCEL = "sends_cancel"  # a request's parameter: "1" if its client, should it leave, sends `cancel`
