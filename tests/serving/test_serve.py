"""`cones serve`, started as users start it, asked by a client of A1111 that nobody here wrote, and by worse ones."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conestool import format as cones_format
from conestool.errors import PromptError
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from conestool.rendering import png_bytes, render
from tests.support.command_line import COMMAND, ROOT, Cones, environment
from tests.support.tiny_models import random_cone

needs = "needs conestool[serve] and webuiapi: pip install -c constraints.txt -e '.[dev]'"
pytest.importorskip("fastapi", reason=needs)
pytest.importorskip("uvicorn", reason=needs)
webuiapi = pytest.importorskip("webuiapi", reason=needs)

MANY = 32
SECRET = {"username": "anybody", "password": "secret"}
LONG = {"prompt": "a dog", "steps": 150, "n_iter": 16}
"""A request that takes far longer than a test waits."""


@dataclass
class Served:
    """A server: where it listens, and its process."""

    port: int
    process: subprocess.Popen[str]

    def client(self, **options: Any) -> Any:
        """A client of the A1111 interface."""
        return webuiapi.WebUIApi(port=self.port, sampler=None, steps=4, **options)

    def ask(self, prompt: str, **options: Any) -> bytes:
        """The PNG that the client gets."""
        answer = self.client().txt2img(prompt=prompt, width=32, height=32, cfg_scale=3.0, **options)
        return base64.b64decode(answer.json["images"][0])


@contextmanager
def serving(folder: Path, model: Path, *arguments: str) -> Iterator[Served]:
    """A server of the concepts in `folder`; killed afterwards."""
    command = [*COMMAND, "serve", str(folder), "--port", "0", "--model", str(model), *arguments]
    env = environment(PYTHONPATH=str(ROOT))
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while not (found := re.search(r"on http://127\.0\.0\.1:(\d+)\n", said)):
                said += (line := process.stderr.readline())
                assert line, said
            yield Served(int(found[1]), process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def shelf(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 concepts."""
    folder = tmp_path_factory.mktemp("shelf")
    for number in range(MANY):
        cones_format.save(random_cone(model, f"c{number:02}", density=0.3, seed=number), folder / f"{number}.cone")
    return folder


@pytest.fixture(scope="module")
def server(shelf: Path, epsilon_folder: Path) -> Iterator[Served]:
    """A server of all of them."""
    with serving(shelf, epsilon_folder) as served:
        yield served


def expected(model: Model, shelf: Path, number: int, seed: int, strength: float = 1.0) -> bytes:
    """What `cones render` writes for "a c07 on the beach"."""
    cone = cones_format.load(shelf / f"{number}.cone")
    (one,) = render(model, f"a c{number:02} on the beach", cone, seeds=[seed], strength=strength)
    return png_bytes(one.image, one.record)


def test_a_client_of_a1111_finds_its_way(server: Served, epsilon_folder: Path) -> None:
    """Models, samplers, options and progress are where it looks, and its default sampler draws."""
    client = server.client()
    (name,) = client.util_get_model_names()
    assert name.startswith(epsilon_folder.name) and client.util_get_current_model() == name
    client.util_set_model(name)
    assert {"Euler a", "DDIM"} < set(client.util_get_sampler_names())
    assert "automatic" in client.util_get_scheduler_names()
    assert client.get_progress()["state"]["job_count"] == 0
    assert len(client.get_loras()) == MANY
    drawn = webuiapi.WebUIApi(port=server.port).txt2img(
        prompt="a dog", steps=4, width=32, height=32, batch_size=2, seed=7
    )
    assert [image.size for image in drawn.images] == [(32, 32)] * 2
    assert drawn.info["all_seeds"] == [7, 8] and "Sampler: Euler a" in drawn.image.text["parameters"]


def test_answers_are_those_of_render(
    server: Served, model: Model, shelf: Path, cones: Cones, work: Path, epsilon_folder: Path
) -> None:
    """Byte for byte: by name, and with a strength."""
    where = ("--model", epsilon_folder, "-o", "one.png")
    assert cones("render", "a c03 on the beach", "-c", shelf / "3.cone", *where, "--seed", "5").code == 0
    assert server.ask("a c03 on the beach", seed=5) == (work / "one.png").read_bytes() == expected(model, shelf, 3, 5)
    assert server.ask("a <cone:c03:0.5> on the beach", seed=5) == expected(model, shelf, 3, 5, 0.5)


def test_everybody_gets_what_they_asked_for(server: Served, model: Model, shelf: Path) -> None:
    """32 at once, each with another concept, and some who leave; the base model is what it was."""
    before = server.ask("a dog", seed=1)
    gone = [vanish(server.port) for _ in range(3)]
    with ThreadPoolExecutor(MANY) as clients:
        answers = list(clients.map(lambda n: server.ask(f"a c{n:02} on the beach", seed=n), range(MANY)))
    assert answers == [expected(model, shelf, number, number) for number in range(MANY)]
    assert len(gone) == 3 and len(set(answers)) == MANY
    assert server.ask("a dog", seed=1) == before


def vanish(port: int) -> int:
    """Ask for a long work and hang up once it has begun or waits; how many bytes came back."""
    body = json.dumps(LONG).encode()
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"POST /sdapi/v1/txt2img HTTP/1.1\r\n{head}".encode() + body)
        time.sleep(0.3)
    return len(body)


def test_who_hangs_up_makes_room(server: Served) -> None:
    """What nobody waits for ends within a step or two; so does what is interrupted, with the pictures it has."""
    client = server.client()
    vanish(server.port)
    wait_until(lambda: client.get_progress()["state"]["job_count"] == 0)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.txt2img, **LONG, width=32, height=32)
        other = server.client()
        wait_until(lambda: 0 < other.get_progress()["progress"] < 1)
        other.interrupt()
        assert len(answer.result(100).images) < LONG["n_iter"]  # type: ignore[operator]


def wait_until(holds: Any) -> None:
    """Until it holds; a test that waits too long fails."""
    end = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_kill_in_the_middle_breaks_nothing(model: Model, shelf: Path, epsilon_folder: Path, tmp_path: Path) -> None:
    """The next server answers the same; SIGTERM ends one with work in hand soon; new files are there at once."""
    files = {path.name: path.read_bytes() for path in shelf.iterdir()}
    with serving(shelf, epsilon_folder) as first:
        vanish(first.port)
        first.process.kill()
    assert files == {path.name: path.read_bytes() for path in shelf.iterdir()}
    (tmp_path / "broken.cone").write_bytes(b"no cone")
    with serving(tmp_path, epsilon_folder, "--token", SECRET["password"]) as second:
        with pytest.raises(RuntimeError, match="401"):
            second.ask("a dog")
        client = second.client(**SECRET)
        assert client.get_loras() == []
        (tmp_path / "0.cone").write_bytes(files["0.cone"])
        drawn = client.txt2img(prompt="a c00 on the beach", width=32, height=32, cfg_scale=3.0, seed=0)
        assert base64.b64decode(drawn.json["images"][0]) == expected(model, shelf, 0, 0)
        with ThreadPoolExecutor(1) as thread:
            cut = thread.submit(client.txt2img, **LONG, width=32, height=32)
            other = second.client(**SECRET)
            wait_until(lambda: other.get_progress()["progress"] > 0)
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(100) in (0, -signal.SIGTERM)
            assert cut.exception(100) or len(cut.result().images) < 16


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"width": 4096}, "width or height 4096: the most is 1024"),
        ({"width": 33, "height": 33}, "multiples of 8"),
        ({"steps": 151}, "steps 151: the most is 150"),
        ({"n_iter": 17}, "pictures 17: the most is 16"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a <cone:nobody:1>"}, "no concept of that name"),
        ({"prompt": "a <cone:c01:2>"}, "not a strength"),
        ({"enable_hr": True}, "not supported here: enable_hr"),
        ({"sampler_name": "Nonsense"}, "is not known"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "CLIP_stop_at_last_layers cannot be 2 here"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked: dict[str, Any], told: str, server: Served) -> None:
    """With the reason, and the server goes on."""
    with pytest.raises(RuntimeError, match=re.escape(told)) as refused:
        server.client().txt2img(**{"prompt": "a dog", "width": 32, "height": 32, **asked})
    assert refused.value.args[0] == 422


def test_strangers_are_kept_out(server: Served, shelf: Path, cones: Cones) -> None:
    """A page that passes as this machine, a body without end, and an address for others without a token."""
    session = server.client().session
    url = f"http://127.0.0.1:{server.port}/sdapi/v1/options"
    assert session.get(url, headers={"Host": "evil.example"}).status_code == 400
    assert session.post(url, data=iter([b"x"])).status_code == 413
    assert session.post(url, data=b"x" * ((1 << 20) + 1)).status_code == 413
    assert b" 413 " in ask_by_hand(server.port, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), "two lengths"
    refused = cones("serve", shelf, "--host", "0.0.0.0")  # noqa: S104
    assert refused.code == 2 and "others could draw here" in refused.err and "--token" in refused.err
    taken = cones("serve", shelf, "--port", server.port)
    assert taken.code == 2 and f"127.0.0.1:{server.port}: Address already in use" in taken.err


def ask_by_hand(port: int, head: str) -> bytes:
    """The first line that answers a request with these lines in its head, and no body yet."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"POST /sdapi/v1/options HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        return connection.makefile("rb").readline()


def test_weights_are_bit_identical_after_a_stop(model: Model, shelf: Path) -> None:
    """A drawing that is stopped in the middle of a picture leaves the model as it was."""
    from conestool.serving.drawing import Drawing, Index, Painter

    before = {name: weight.detach().clone() for name, weight in kv_weights(model.denoiser).items()}
    painter = Painter(model, Index([shelf]))
    drawing = Drawing("a c01", range(16), {"steps": 100}, 100)
    answer = painter.submit(drawing)
    wait_until(lambda: drawing.step > 3)
    drawing.stop.set()
    assert len(answer.result(100)) < 16
    with pytest.raises(PromptError):
        painter.submit(Drawing("", range(1), {}, 4)).result(100)
    painter.close()
    assert all(weight.equal(before[name]) for name, weight in kv_weights(model.denoiser).items())
