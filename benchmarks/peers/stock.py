"""Stock diffusers alone: a JSON request a line on stdin, `{"seconds": ..., "png": BASE64}` a line on stdout.

`stock.py eager` or `stock.py compile`; the clock is around the pipeline's call, nothing else.
"""

from __future__ import annotations

import base64
import json
import sys
import time

from pipeline import draw, load, png


def main() -> None:
    pipeline = load()
    if sys.argv[1] == "compile":
        denoiser = pipeline.transformer if "transformer" in pipeline.components else pipeline.unet
        denoiser.compile()
        pipeline.vae.decoder.compile()
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        start = time.perf_counter()
        (image,) = draw(pipeline, [json.loads(line)])
        seconds = time.perf_counter() - start
        said = {"seconds": seconds, "png": base64.b64encode(png(image)).decode()}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
