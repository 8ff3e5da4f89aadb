"""Numbers: what is not finite stops a search with nothing written, and applied weights come back bit for bit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.reliability.cycles import DTYPES, Cycles, make_model
from conestool.cli import main as cli
from conestool.errors import DeviceError, NonFiniteError
from conestool.format import dumps
from conestool.images.photos import as_photo, to_latents
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from conestool.models.sampling import sample
from conestool.search.find import find
from conestool.search.methods import METHODS
from conestool.search.parameters import FlatParameters, GradientCallback
from tests.support.searches import quick
from tests.support.tiny_models import save_pipeline

NOISE = [Image.effect_noise((32, 32), 20 + 10 * number).convert("RGB") for number in range(4)]


@pytest.fixture
def model(epsilon_folder: Path) -> Model:
    """A fresh copy of the small base model."""
    return Model.from_pretrained(str(epsilon_folder))


def search(model: Model, method: str, photos: list[Image.Image] | None = None) -> Any:
    """A search of three steps on pictures of noise; with `mask` the model finds words for them and the density."""
    settings = quick(method, captions="auto", density=None) if method == "mask" else quick(method)
    return find(model, photos or NOISE, "dog", identifier="sks", config=settings, class_images=NOISE)


@contextmanager
def answers(module: nn.Module, value: float) -> Iterator[None]:
    """Within it `value` is added to all that `module` answers."""
    hook = module.register_forward_hook(lambda module, given, out: out + value)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(("method", "value"), zip(METHODS, cycle((float("inf"), float("nan")))))
def test_a_loss_that_is_not_finite_stops_every_method(model: Model, method: str, value: float) -> None:
    """The error says which number, in which dtype, and what to try; the weights are as before."""
    before = {name: weight.detach().clone() for name, weight in kv_weights(model.denoiser).items()}
    with (
        answers(model.denoiser.conv_out, value),  # type: ignore[arg-type]
        pytest.raises(NonFiniteError, match=r"L_con at step 1 is (NaN|infinite) in float32") as caught,
    ):
        search(model, method)
    assert caught.value.exit_code == 6 and "another model" in str(caught.value.hint)
    assert all(torch.equal(weight, before[name]) for name, weight in kv_weights(model.denoiser).items())


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, torch.Tensor], object]) -> None:
    """Let `change` see every gradient, by the number of its parameter, before a search does."""
    true = FlatParameters.stream_gradients

    def spoiled(params: FlatParameters, callback: GradientCallback) -> AbstractContextManager[None]:
        def give(number: int, gradient: torch.Tensor) -> None:
            change(number, gradient)
            callback(number, gradient)

        return true(params, give)

    monkeypatch.setattr(FlatParameters, "stream_gradients", spoiled)


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_overflows_stops_every_method(
    model: Model, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss is not enough: one infinite gradient, as float16 gives, would rank at random."""
    spoil(monkeypatch, lambda number, gradient: number == 1 and gradient[7].fill_(float("inf")))
    with pytest.raises(NonFiniteError, match="gradient of L_con at step 1 is infinite"):
        search(model, method)


def test_a_search_without_any_gradient_stops(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that a backend dropped would leave a set that means nothing; one number is enough to go on."""
    spoil(monkeypatch, lambda number, gradient: gradient[number != 1 or 1 :].zero_())
    search(model, "taylor")
    spoil(monkeypatch, lambda number, gradient: gradient.zero_())
    with pytest.raises(DeviceError, match="gradient of L_con at step 1 is zero everywhere"):
        search(model, "mask")


def test_a_damaged_model_stops_find_before_any_work_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A NaN in a stored weight: exit code 6, the weight's name, and neither .cone nor .checkpoint."""
    folder = save_pipeline(tmp_path / "model")
    damaged = Model.from_pretrained(str(folder))
    with torch.no_grad():
        next(iter(kv_weights(damaged.denoiser).values())).view(-1)[3] = float("nan")
    damaged.pipe.save_pretrained(folder)
    (tmp_path / "dog").mkdir()
    NOISE[0].save(tmp_path / "dog" / "a.png")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert cli.run(["find", "dog", "-o", "dog.cone", "--model", str(folder)]) == 6
    said = "".join(capsys.readouterr().err.split())
    assert "holdsNaNvalues" in said and "getanothercopy" in said
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before] in ([], [tmp_path / "cones-cache"])


def test_pictures_of_nan_are_an_error_and_not_black(model: Model) -> None:
    """What a model draws in too small a range is neither learned from nor shown."""
    with answers(model.pipe.vae.decoder, float("nan")), pytest.raises(NonFiniteError, match="draws NaN in float32"):
        sample(model, ["a dog"], [0], steps=2)


def test_an_autoencoder_that_overflows_is_named(model: Model) -> None:
    """Latents are checked before the search starts."""
    with answers(model.pipe.vae.encoder, float("inf")), pytest.raises(NonFiniteError, match="autoencoder's answer"):
        to_latents(model, [NOISE[0]])


@pytest.mark.usefixtures("few_probes")
@pytest.mark.parametrize(("method", "colour"), zip(METHODS, cycle(("black", "white"))))
def test_photos_of_one_colour_are_fine(model: Model, method: str, colour: str) -> None:
    """Nothing to see is no error."""
    photo = as_photo(Image.new("RGB", (40, 40), colour))
    assert search(model, method, [photo.image])["dog"].origin.losses is not None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_nests_of_applied_restore_every_bit_and_flag(tmp_path: Path, dtype: torch.dtype) -> None:
    """Overlapping cones, exceptions, shared and strided memory, -0 and NaN payloads."""
    counts = Cycles(*make_model(tmp_path, dtype), seed=1).run(25)
    assert counts["contexts"] > 40 and counts["exceptions"] > 3
    assert (counts["other bits"], counts["other flags"]) == (0, 0)


def test_lora_adapters_may_come_and_go_while_concepts_are_applied(tmp_path: Path) -> None:
    """The base weights under the adapters return; fails rather than skips where CI is set and peft is missing."""
    if importlib.util.find_spec("peft") is None:
        if os.environ.get("CI"):
            pytest.fail("peft is not installed")
        pytest.skip("peft is not installed")
    counts = Cycles(*make_model(tmp_path, torch.float32), seed=2, lora=True).run(25)
    assert counts["adapters"] >= 3
    assert counts["other bits"] == 0


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch may use two threads, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.alone
@pytest.mark.usefixtures("two_threads")
def test_as_many_threads_give_the_same_file(model: Model) -> None:
    """What is promised: the same seed and number of threads on the same machine; other tests run with one."""
    assert dumps(search(model, "mask")) == dumps(search(model, "mask"))
