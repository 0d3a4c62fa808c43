"""One LoRA file of each format, added to the store of a running service: stock diffusers' picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_files import Bench
from stock import STEPS, Stock, difference, load_adapter
from test_adapter_formats import FORMATS, Writer
from tiny_service import ASSETS, Service

from finetune.store import Said, Store

PROMPT = "a red mug on a blue gradient background"
EACH = [(family, write) for family, writers in FORMATS.items() for write in writers]


@pytest.fixture(scope="module")
def stock() -> dict[str, Stock]:
    return {family: Stock(family) for family in FORMATS}


@pytest.mark.parametrize(("family", "write"), EACH, ids=[f"{f}-{write.__name__}" for f, write in EACH])
def test_a_file_of_each_format_gives_stock_diffusers_picture(
    service: Service, stock: dict[str, Stock], family: str, write: Writer, tmp_path: Path
) -> None:
    bench = Bench.open(family, (ASSETS / f"{family}-tiny").absolute())
    path, name = write(bench, tmp_path), f"of-{write.__name__}".lower().replace("_", "-")
    Store(service.store).add(path, name, bench.base, Said())
    asked = {"model": family, "seed": 2, "num_inference_steps": STEPS}
    ours = service.picture(PROMPT, loras=[{"name": name, "scale": 0.7}], **asked)
    pipeline, guidance = stock[family].text, 3.5 if family == "flux" else 5.0
    load_adapter(pipeline, path, name)
    pipeline.set_adapters([name], [0.7])
    theirs = stock[family](PROMPT, 2, guidance_scale=guidance, height=128, width=128)
    pipeline.delete_adapters(name)
    assert difference(ours, theirs) <= 1
    assert difference(ours, service.picture(PROMPT, **asked)) > 2
