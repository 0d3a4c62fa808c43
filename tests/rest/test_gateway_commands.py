"""The commands: the gateway before a running Triton or its own, the demo, the example client."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from gateway_support import unused_port
from PIL import Image

from gateway.schemas import EXAMPLE_PROMPT
from gateway.settings import Settings
from serving import EmbeddedTriton

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def gateway_command(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`python -m gateway` running in `folder`; its process, its URL and the curl line that it prints."""
    command = [sys.executable, "-m", "gateway", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout or [])
            url = next(line for line in lines if line.startswith("gateway: ")).split()[1]
            yield process, url, next(lines).removeprefix("try: ")
        finally:
            process.kill()


def ask(curl: str, url: str) -> httpx2.Response:
    """What `curl` would send."""
    words = shlex.split(curl)
    assert words[:3] == ["curl", "-s", f"{url}/generate-image"]
    header, body = words[words.index("-H") + 1], words[words.index("-d") + 1]
    return httpx2.post(words[2], content=body, headers=[tuple(header.split(": "))], trust_env=False)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_the_gateway_serves_a_running_triton_until_ctrl_c(triton: EmbeddedTriton, tmp_path: Path) -> None:
    with gateway_command(tmp_path, "--triton", triton.grpc_url) as (process, url, curl):
        answer = ask(curl, url).json()
        assert answer["prompt"] == EXAMPLE_PROMPT
        assert (tmp_path / "out" / "images" / answer["generated_image_url"].split("/")[-1]).is_file()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert triton.running


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_gateway_starts_and_stops_its_own_triton(
    repository: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    with gateway_command(tmp_path, "--embedded", str(repository), "--grpc-port", "0") as (
        process,
        url,
        curl,
    ):
        assert ask(curl, url).status_code == 200
        process.send_signal(stop)
        assert process.wait(30) == 0
    children = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in children if str(tmp_path).encode() in command]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--embedded", "nowhere", "--grpc-port", "0"], "nowhere"),
        (
            ["--triton", "http://127.0.0.1:8001"],
            "POSTPULSE_TRITON_URL (HOST:PORT of Triton's gRPC): String",
        ),
        (["--port", "99999"], "99999"),
    ],
)
def test_a_start_that_fails_says_why(tmp_path: Path, arguments: list[str], fault: str) -> None:
    ended = run(tmp_path, "-m", "gateway", *arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith("gateway: ") and fault in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_port_of_triton_that_is_none_is_named_as_such(repository: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, "-m", "gateway", "--embedded", str(repository), "--port", "0", "--grpc-port", "-1")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("gateway: gRPC port -1 is not a port; choose a --grpc-port of 1 to 65535")


def test_a_misspelt_setting_and_a_store_that_is_not_there_are_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTPULSE_DEADLINE", "7")
    monkeypatch.setenv("POSTPULSE_ADAPTERS", "nowhere")
    for name in ("SERVICE_HOST", "TRITON_PORT", "TRITON_PORT_8001_TCP_ADDR"):  # Kubernetes sets such
        monkeypatch.setenv(f"POSTPULSE_{name}", "10.0.0.7")
    ended = run(tmp_path, "-m", "gateway", "--port", "99999")
    near = "POSTPULSE_DEADLINE is no setting and changes nothing; did you mean POSTPULSE_DEADLINE_SECONDS?"
    away = "there is no store of adapters at nowhere; industries are words only"
    assert ended.stdout == f"warning: {near}\nwarning: {away}\n"


def test_a_folder_of_pictures_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTPULSE_STORAGE_FOLDER", "/proc/pictures")
    ended = run(tmp_path, "-m", "gateway", "--port", "0", "--triton", f"127.0.0.1:{unused_port()}")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1) and "'/proc/pictures'" in ended.stderr


def test_the_help_tells_each_setting_and_its_default(tmp_path: Path) -> None:
    told = run(tmp_path, "-m", "gateway", "--help").stdout
    assert all(f"POSTPULSE_{name.upper()}: " in told for name in Settings.model_fields)
    assert "POSTPULSE_MAX_IN_FLIGHT: requests being drawn" in told and "(default: 64)" in told


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(tmp_path, "-m", "gateway", "--port", port, "--embedded", "nowhere")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert f"127.0.0.1:{port}" in ended.stderr and "in use; choose another --port" in ended.stderr


def test_a_triton_that_does_not_answer_is_named_at_the_start(tmp_path: Path) -> None:
    address = f"127.0.0.1:{unused_port()}"
    command = [sys.executable, "-m", "gateway", "--port", "0", "--triton", address]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        said = next(line for line in process.stdout or [] if "Triton" in line)
        process.kill()
    assert said.startswith(f"warning: no live Triton at {address};")


def test_the_demo_draws_a_picture_and_one_that_starts_from_it(repository: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, "-m", "gateway.demo", "--repository", str(repository), "--output", "here")
    assert ended.returncode == 0 and "fork" not in ended.stderr, ended.stderr
    answers = [
        json.loads(text) for text in re.findall(r"^\{$.*?^\}$", ended.stdout, re.MULTILINE | re.DOTALL)
    ]
    assert [answer["task"] for answer in answers] == ["text_to_image", "image_to_image"]
    assert answers[0]["prompt"] == EXAMPLE_PROMPT
    for answer, name in zip(answers, ("demo.png", "demo-image-to-image.png"), strict=True):
        with Image.open(tmp_path / "here" / name) as picture:
            assert picture.size == (answer["width"], answer["height"])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [(["--prompt", " "], "422: prompt: "), (["--prompt", "!shape"], "502: images has shape")],
)
def test_a_demo_that_fails_says_why_in_one_line(
    repository: Path, tmp_path: Path, arguments: list[str], fault: str
) -> None:
    ended = run(tmp_path, "-m", "gateway.demo", "--repository", str(repository), *arguments)
    assert ended.returncode == 1
    assert fault in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "demo.png").exists()


def test_the_demo_needs_a_repository(tmp_path: Path) -> None:
    ended = run(tmp_path, "-m", "gateway.demo", "--repository", "nowhere")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1) and "nowhere" in ended.stderr


def test_the_example_client_saves_a_picture(triton: EmbeddedTriton, tmp_path: Path) -> None:
    client = str(EXAMPLES / "triton_client.py")
    assert f'"{EXAMPLE_PROMPT}"' in Path(client).read_text()  # it can import nothing of ours
    ended = run(tmp_path, client, "--url", triton.grpc_url, "--prompt", "a mug", "--output", "mug.png")
    assert ended.returncode == 0, ended.stderr
    with Image.open(tmp_path / "mug.png") as picture:
        assert picture.size == (64, 64)


def test_settings_come_from_the_environment() -> None:
    code = "from gateway.settings import Settings; print(Settings().triton_url, Settings().deadline_seconds)"
    changed = {"POSTPULSE_TRITON_URL": f"triton:{unused_port()}", "POSTPULSE_DEADLINE_SECONDS": "7"}
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, **changed})
    assert said.split() == [changed["POSTPULSE_TRITON_URL"], "7.0"]
