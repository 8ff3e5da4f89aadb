"""Zeroing concept neurons: exactly those weights, exactly that much, and every bit back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from conestool.apply import apply_cones, check_base, strengths, write_denoiser, write_folder
from conestool.apply._safetensors import raise_os_errors, save_tensors
from conestool.concept import Concept, Cone
from conestool.errors import BaseModelMismatchError, OutputExistsError, UsageError
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from conestool.models.sampling import sample
from tests.support.tiny_models import make_unet, random_cone, save_pipeline


def snapshot(model: Model) -> dict[str, Tensor]:
    """A copy of every parameter and buffer of the denoiser."""
    return {key: value.clone() for key, value in model.denoiser.state_dict().items()}


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bits as integers, so that -0 and +0 differ and NaN equals itself."""
    return tensor.contiguous().view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def assert_same_bits(model: Model, before: dict[str, Tensor]) -> None:
    """Every weight has its former bits."""
    for key, value in model.denoiser.state_dict().items():
        assert torch.equal(bits(value), bits(before[key])), key


def change_weights(model: Model) -> None:
    """Change a weight for good, as a program does that knows nothing of concepts."""
    next(iter(kv_weights(model.denoiser).values())).data.view(-1)[0] += 1


def flat(model: Model, concept: Concept) -> Iterator[tuple[Tensor, Tensor]]:
    """The values of each touched tensor, flat, with the mask of the concept's neurons."""
    for param, values in kv_weights(model.denoiser).items():
        mask = torch.zeros(values.numel(), dtype=torch.bool)
        mask[torch.from_numpy(concept.indices[param].copy())] = True
        yield values.detach().reshape(-1).clone(), mask


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_zeroes_exactly_the_neurons(epsilon_folder: Path, dtype: str) -> None:
    """At strength 1 they are +0 and no other weight moves, at 0.25 they keep three quarters, at 0 nothing moves."""
    model = Model.from_pretrained(str(epsilon_folder), dtype=dtype)
    cone = random_cone(model)
    before = snapshot(model)
    untouched = list(flat(model, cone["dog"]))
    with apply_cones(model.pipe, cone, verify_base_model=False) as pipe:
        assert pipe is model.pipe
        for (now, mask), (then, _) in zip(flat(model, cone["dog"]), untouched, strict=True):
            assert not bits(now[mask]).any()
            assert torch.equal(bits(now[~mask]), bits(then[~mask]))
            assert then[mask].any()
    with apply_cones(model, cone, strength=0.25, verify_base_model=False):
        for (now, mask), (then, _) in zip(flat(model, cone["dog"]), untouched, strict=True):
            torch.testing.assert_close(now[mask], then[mask] * 0.75, rtol=0, atol=0)
    with apply_cones(model, cone, strength=0.0, verify_base_model=False):
        assert_same_bits(model, before)
    assert_same_bits(model, before)


def test_strength_by_name_and_largest_on_shared_neurons(model: Model) -> None:
    """A neuron that two concepts share gets the larger strength, not both one after the other."""
    param = next(iter(model.info.tensors))
    dog = Concept("dog", "dog", "sks", {param: np.array([1, 2], dtype=np.int64)}, model.info)
    hat = Concept("hat", "hat", "zwx", {param: np.array([2, 3], dtype=np.int64)}, model.info)
    values = kv_weights(model.denoiser)[param].detach().reshape(-1)[:5].clone()
    with apply_cones(model, Cone((dog, hat)), strength={"dog": 0.5, "hat": 0.25}):
        now = kv_weights(model.denoiser)[param].detach().reshape(-1)[:5].clone()
    assert torch.equal(now, values * torch.tensor([1, 0.5, 0.5, 0.75, 1]))


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_restores_when_nested_and_after_an_exception(model: Model, strength: float) -> None:
    """Contexts with overlapping concepts, and with the same one twice, each restore what they found."""
    dog, hat = random_cone(model, "dog", density=0.5), random_cone(model, "hat", density=0.5, seed=1)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="on purpose"), apply_cones(model, dog, strength=strength):
        outer = snapshot(model)
        with apply_cones(model.pipe, hat, strength=strength), apply_cones(model, dog, strength=strength):
            pass
        assert_same_bits(model, outer)
        raise RuntimeError("on purpose")
    assert_same_bits(model, before)


def test_restores_weights_that_are_not_contiguous(model: Model) -> None:
    """Flat indices are row-major positions whatever the strides in memory."""
    cone = random_cone(model)
    param = next(iter(kv_weights(model.denoiser).values()))
    expected = param.detach().clone()
    expected.view(-1)[torch.from_numpy(next(iter(cone["dog"].indices.values())).copy())] = 0
    param.data = param.data.t().contiguous().t()
    assert not param.is_contiguous()
    before = snapshot(model)
    with apply_cones(model, cone):
        assert torch.equal(param, expected)
    assert_same_bits(model, before)


def test_refuses_strengths_that_make_no_sense(model: Model) -> None:
    """One that would enlarge a weight or turn its sign, and one for a misspelt name; nothing changes."""
    before = snapshot(model)
    for strength in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match=r"strength .* of dog"):
            apply_cones(model, random_cone(model), strength=strength).__enter__()
    assert_same_bits(model, before)
    with pytest.raises(UsageError, match="cat"):
        strengths(random_cone(model), {"cat": 0.5})
    assert strengths(random_cone(model, "dog", "hat"), {"DOG": 0.5}) == {"dog": 0.5, "hat": 1.0}


def test_refuses_another_base_model(tmp_path: Path, model: Model, v_folder: Path) -> None:
    """Equal shapes are not enough, nor a fused concept; forced it works, unless shapes differ."""
    other = Model.from_pretrained(str(v_folder))
    cone = random_cone(model)
    with pytest.raises(BaseModelMismatchError, match=r"dog was found on .* different weights") as caught:
        check_base(other, cone)
    assert caught.value.exit_code == 5 and "--allow-base-mismatch" in str(caught.value.hint)
    with pytest.raises(BaseModelMismatchError):
        write_folder(other, cone, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with apply_cones(other, cone, allow_base_mismatch=True):
        pass
    change_weights(model)
    with pytest.raises(BaseModelMismatchError):
        apply_cones(model.pipe, cone).__enter__()
    model.pipe.unet = make_unet(0, cross=24)
    with pytest.raises(BaseModelMismatchError, match="expected"):
        apply_cones(model.pipe, cone, allow_base_mismatch=True).__enter__()


def test_identity_does_not_depend_on_what_is_applied(model: Model) -> None:
    """Inside the context a pipeline still counts as its base model; applied unchecked it refuses to say."""
    plain = Model.from_pipeline(model.pipe)
    cone = random_cone(model)
    with apply_cones(model.pipe, cone, verify_base_model=False), pytest.raises(UsageError, match="applied unchecked"):
        _ = Model.from_pipeline(model.pipe).info
    digests = plain.info.digests
    with apply_cones(plain.pipe, cone):
        assert Model.from_pipeline(plain.pipe).info.digests == digests
    assert Model.from_pipeline(plain.pipe).info.digests == digests
    change_weights(plain)
    assert plain.info.digests != digests


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_writes_a_folder_that_from_pretrained_loads(tmp_path: Path, dtype: torch.dtype) -> None:
    """In the base's dtype: neurons +0, everything else with its former bits, other parts copied."""
    from diffusers import StableDiffusionPipeline

    from conestool.models._logging import quiet

    base = save_pipeline(tmp_path / "base", dtype=dtype)
    (base / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    model = Model.from_pretrained(str(base))
    cone = random_cone(model)
    out = write_folder(model, cone, tmp_path / "patched")
    with quiet():
        loaded = StableDiffusionPipeline.from_pretrained(out, local_files_only=True, dtype=dtype)
    stored, written = (load_file(next((folder / "unet").glob("*.safetensors"))) for folder in (base, out))
    assert stored.keys() == written.keys()
    for key, value in written.items():
        assert value.dtype == stored[key].dtype == dtype
        expected = stored[key].clone()
        if key in cone["dog"].indices:
            expected.view(-1)[torch.from_numpy(cone["dog"].indices[key].copy())] = 0
        assert torch.equal(bits(value), bits(expected)), key
        assert torch.equal(loaded.unet.state_dict()[key], value)
    assert not list(out.rglob("*.bin"))
    assert (out / "vae" / "config.json").read_bytes() == (base / "vae" / "config.json").read_bytes()
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n") and "`sks dog`" in card and card.endswith("# Base\n")


def test_writes_what_applied_is(tmp_path: Path, model: Model) -> None:
    """From files and from memory: a folder that draws the same picture, and a denoiser with the same bits.

    The metadata of the latter name the concepts, and the pipeline stays itself.
    """
    cone, before = random_cone(model, density=0.3), snapshot(model)
    written = Model.from_pretrained(str(write_folder(model, cone, tmp_path / "files", strength=0.5)))
    memory = write_folder(Model.from_pipeline(model.pipe), cone, tmp_path / "memory", strength=0.5)
    out = write_denoiser(model, cone, tmp_path / "unet.safetensors", strength=0.5)
    with safe_open(out, "pt") as file:
        [told] = json.loads(file.metadata()["cones"])
    assert (told["name"], told["id"], told["strength"]) == ("dog", cone["dog"].id, 0.5)
    with apply_cones(model, cone, strength=0.5):
        [expected] = sample(model, ["a sks dog"], [0])
        for tensors in (load_file(out), Model.from_pretrained(str(memory)).denoiser.state_dict()):
            assert_same_bits(model, dict(tensors))
    assert sample(written, ["a sks dog"], [0])[0].tobytes() == expected.tobytes()
    assert_same_bits(model, before)


def test_writes_a_compiled_denoiser_under_plain_names_and_refuses_lora(tmp_path: Path, model: Model) -> None:
    """torch.compile's prefix stays out of the file; LoRA layers cannot be written and are not dropped in silence."""
    cone, names = random_cone(model), set(model.denoiser.state_dict())
    before = snapshot(model)
    write_denoiser(Model.from_pipeline(model.pipe), cone, tmp_path / "plain.safetensors")
    assert_same_bits(model, before)
    model.pipe.unet = torch.compile(model.pipe.unet)
    out = write_denoiser(Model.from_pipeline(model.pipe), cone, tmp_path / "unet.safetensors")
    assert set(load_file(out)) == names
    plain = load_file(tmp_path / "plain.safetensors")
    assert all(torch.equal(bits(value), bits(plain[key])) for key, value in load_file(out).items())
    attention = next(module for module in model.pipe.unet.modules() if hasattr(module, "to_k"))
    wrapped = torch.nn.Module()
    wrapped.base_layer = attention.to_k
    attention.to_k = wrapped
    for write in (write_denoiser, write_folder):
        with pytest.raises(UsageError, match="LoRA"):
            write(Model.from_pipeline(model.pipe), cone, tmp_path / "lora.safetensors")
    assert not (tmp_path / "lora.safetensors").exists()


def test_keeps_an_existing_output(tmp_path: Path, model: Model) -> None:
    """Without overwrite neither a file nor a folder is replaced, and nothing is left beside it."""
    cone = random_cone(model)
    (tmp_path / "unet.safetensors").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputExistsError):
        write_denoiser(model, cone, tmp_path / "unet.safetensors")
    with pytest.raises(OutputExistsError):
        write_folder(model, cone, tmp_path / "folder")
    assert (tmp_path / "unet.safetensors").read_text() == "mine"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cones-cache", "folder", "unet.safetensors"]
    write_denoiser(model, cone, tmp_path / "unet.safetensors", overwrite=True)
    write_folder(model, cone, tmp_path / "folder", overwrite=True)
    assert (tmp_path / "folder" / "model_index.json").is_file()


def test_metadata_is_written_in_the_order_of_its_keys(tmp_path: Path) -> None:
    """So that the same command gives the same bytes; tensors and metadata read back as they were."""
    metadata = {"format": "pt", "cones": '["dög"]', "a": "1", "cones_base": "x"}
    tensors = {"two": torch.ones(3), "one": torch.zeros(2, dtype=torch.float16)}
    for number in range(4):
        save_tensors(tensors, tmp_path / str(number), metadata)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1
    assert b'{"a":"1","cones":' in (tmp_path / "0").read_bytes()
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors.items())


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Which safetensors tells in words alone."""
    with pytest.raises(OSError, match="No space left") as caught, raise_os_errors(tmp_path / "a"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(SafetensorError), raise_os_errors(tmp_path / "a"):
        raise SafetensorError("invalid header")
