"""load_cones and unload_cones: exact in any order, and beside everything else that people do to a pipeline."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conestool import apply_cones, load_cones, unload_cones
from conestool.apply import write_folder
from conestool.errors import UsageError
from conestool.models.kv_weights import kv_weights
from conestool.models.model import Model
from tests.support.tiny_models import make_pipeline, random_cone


def bits(pipe: Any) -> dict[str, bytes]:
    """Every K/V weight as it lies in memory."""
    return {param: weight.detach().cpu().numpy().tobytes() for param, weight in kv_weights(pipe.unet).items()}


def drawn(pipe: Any) -> bytes:
    """The pixels of one picture."""
    generator = torch.Generator().manual_seed(0)
    [image] = pipe("a dog", num_inference_steps=2, height=32, width=32, generator=generator).images
    return bytes(image.tobytes())


def test_stays_until_unloaded(model: Model) -> None:
    """The picture of `apply_cones`, without a context, by another scheduler too; then every bit is back."""
    from diffusers import EulerAncestralDiscreteScheduler

    pipe, cone, own = model.pipe, random_cone(model, density=0.3), model.pipe.scheduler
    euler = EulerAncestralDiscreteScheduler.from_config(own.config)
    before, bare = bits(pipe), drawn(pipe)

    def drawn_by_each() -> list[bytes]:
        out = []
        for pipe.scheduler in (euler, own):
            out.append(drawn(pipe))
        return out

    with apply_cones(pipe, cone, strength=0.5):
        inside, expected = bits(pipe), drawn_by_each()
    load_cones(pipe, cone, strength=0.5)
    assert bits(pipe) == inside and drawn_by_each() == expected and bare not in expected
    assert Model.from_pipeline(pipe).info.digests == model.info.digests
    for _ in range(2):
        unload_cones(pipe)
        assert bits(pipe) == before
    assert drawn(pipe) == bare


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_leaves_in_any_order(model: Model, strength: float) -> None:
    """Loaded inside a context that ends first, and a context around an unload: what remains is as if it were alone."""
    pipe = model.pipe
    dog, hat = random_cone(model, "dog", density=0.5), random_cone(model, "hat", density=0.5, seed=1)
    before = bits(pipe)
    load_cones(pipe, hat, strength=strength)
    only_hat = bits(pipe)
    unload_cones(pipe)
    with apply_cones(pipe, dog, strength=strength):
        only_dog = bits(pipe)
        load_cones(pipe, hat, strength=strength)
        assert bits(pipe) not in (only_dog, only_hat)
    assert bits(pipe) == only_hat
    load_cones(pipe, dog, strength=strength)
    with apply_cones(pipe, dog, strength=strength):
        unload_cones(pipe)
        assert bits(pipe) == only_dog
    assert bits(pipe) == before


def test_weights_may_move_and_change_dtype(model: Model) -> None:
    """`pipe.to` exchanges the memory of every parameter; what comes back is what the base model would have become."""
    pipe, cone = model.pipe, random_cone(model, density=0.3)
    expected = {param: weight.detach().to(torch.float16) for param, weight in kv_weights(pipe.unet).items()}
    load_cones(pipe, cone, strength=0.3)
    for weight in pipe.unet.parameters():
        weight.data = weight.data.clone()
    pipe.unet.to(torch.float16)
    unload_cones(pipe)
    assert all(torch.equal(weight, expected[param]) for param, weight in kv_weights(pipe.unet).items())


class Adapter(nn.Module):
    """A LoRA layer as peft wraps one: the original module, and a product of two matrices beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Both added."""
        out: Tensor = self.base_layer(x) + self.up(self.down(x))
        return out


def add_adapters(pipe: Any) -> None:
    """Wrap every K projection."""
    torch.manual_seed(0)
    for module in list(pipe.unet.modules()):
        if isinstance(getattr(module, "to_k", None), nn.Linear):
            module.to_k = Adapter(module.to_k)


@pytest.mark.parametrize("lora_first", [True, False])
def test_loras_may_be_there_or_come_later(model: Model, lora_first: bool) -> None:
    """The concept zeroes the weights below the LoRA; identity, picture and exact return do not depend on the order."""
    pipe, cone = model.pipe, random_cone(model, density=0.3)
    before = bits(pipe)
    if lora_first:
        add_adapters(pipe)
    load_cones(pipe, cone)
    if not lora_first:
        add_adapters(pipe)
    both = drawn(pipe)
    unload_cones(pipe)
    assert bits(pipe) == before
    lora = drawn(pipe)
    with apply_cones(pipe, cone):
        assert drawn(pipe) == both != lora


def test_loras_of_peft(model: Model, tmp_path: Path) -> None:
    """The same with a LoRA that diffusers loads; fused in between, unloading is refused until told otherwise."""
    pytest.importorskip("peft")
    from conestool.apply import write_lora

    pipe, cone = model.pipe, random_cone(model, density=0.3)
    lora = write_lora(model, random_cone(model, "hat", seed=3), tmp_path / "lora.safetensors", rank=4)
    before = bits(pipe)
    pipe.load_lora_weights(str(lora.path))
    alone = drawn(pipe)
    load_cones(pipe, cone)
    assert drawn(pipe) != alone
    unload_cones(pipe)
    assert bits(pipe) == before and drawn(pipe) == alone
    load_cones(pipe, cone)
    pipe.fuse_lora()
    with pytest.raises(UsageError, match="have changed"):
        unload_cones(pipe)
    unload_cones(pipe, discard_changes=True)


def test_refuses_to_unload_what_has_changed(model: Model) -> None:
    """Fused or trained weights are not overwritten in silence; the refusal changes nothing, discard_changes does."""
    pipe, cone = model.pipe, random_cone(model, density=0.3)
    first = next(iter(kv_weights(pipe.unet).values()))
    before = bits(pipe)
    load_cones(pipe, cone)
    load_cones(pipe, random_cone(model, "hat", seed=1))
    untouched = bits(pipe)
    first.data += 0.5
    changed = bits(pipe)
    with pytest.raises(UsageError, match="have changed since") as caught:
        unload_cones(pipe)
    assert "unfuse_lora" in str(caught.value.hint) and bits(pipe) == changed != untouched
    unload_cones(pipe, discard_changes=True)
    same = {param for param, data in bits(pipe).items() if data == before[param]}
    assert len(same) == len(before) - 1
    load_cones(pipe, cone, verify_base_model=False)
    unload_cones(pipe)


def test_model_offloaded_pipelines(model: Model) -> None:
    """`enable_model_cpu_offload` moves whole modules by hooks; one that leaves weights on no device is refused."""
    accelerate = pytest.importorskip("accelerate")
    pipe, cone = model.pipe, random_cone(model, density=0.3)
    before, bare = bits(pipe), drawn(pipe)
    with apply_cones(pipe, cone):
        expected = drawn(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    load_cones(pipe, cone)
    assert drawn(pipe) == expected
    unload_cones(pipe)
    assert bits(pipe) == before and drawn(pipe) == bare
    pipe.remove_all_hooks()
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    with pytest.raises(UsageError, match="offloaded and holds no values") as caught:
        load_cones(pipe, cone)
    assert "enable_model_cpu_offload" in str(caught.value.hint)


def test_refuses_group_offload(model: Model) -> None:
    """Group offload computes with copies; a change of the parameters could be lost."""
    cone, cpu = random_cone(model), torch.device("cpu")
    model.pipe.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    with pytest.raises(UsageError, match="in groups") as caught:
        load_cones(model.pipe, cone)
    assert "enable_model_cpu_offload" in str(caught.value.hint)


@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_pipelines(model: Model, in_place: bool) -> None:
    """A compiled denoiser takes its weights as inputs: loaded before or after, they count; every bit returns."""
    pipe, cone = model.pipe, random_cone(model, density=0.3)
    before, bare = bits(pipe), drawn(pipe)
    with apply_cones(pipe, cone):
        expected = drawn(pipe)
    load_cones(pipe, cone)
    if in_place:
        pipe.unet.compile(backend="aot_eager")
    else:
        pipe.unet = torch.compile(pipe.unet, backend="aot_eager")
    assert near(drawn(pipe), expected)
    assert Model.from_pipeline(pipe).info.digests == model.info.digests
    unload_cones(pipe)
    assert bits(pipe) == before and near(drawn(pipe), bare)
    with apply_cones(pipe, cone):
        assert near(drawn(pipe), expected)
    assert not near(bare, expected) and bits(pipe) == before


def near(one: bytes, other: bytes) -> bool:
    """Whether two pictures differ by two steps of 255 at most: compiled arithmetic is ordered differently."""
    pair = (torch.frombuffer(bytearray(data), dtype=torch.uint8).int() for data in (one, other))
    return int((next(pair) - next(pair)).abs().max()) <= 2


def test_refuses_compiling_with_frozen_weights(model: Model) -> None:
    """Inductor's freezing makes constants of weights; the change would have no effect."""
    import torch._inductor.config as inductor

    cone = random_cone(model)
    with inductor.patch(freezing=True):
        with apply_cones(model.pipe, cone):
            pass
        model.pipe.unet = torch.compile(model.pipe.unet)
        for use in (load_cones, lambda pipe, cone: apply_cones(pipe, cone).__enter__()):
            with pytest.raises(UsageError, match="frozen"):
                use(model.pipe, cone)


def test_refuses_to_write_what_is_loaded(model: Model, tmp_path: Path) -> None:
    """Writing from memory would mix what is loaded for a while into something lasting."""
    pipe, cone = model.pipe, random_cone(model)
    load_cones(pipe, cone)
    with pytest.raises(UsageError, match="applied to"):
        write_folder(Model.from_pipeline(pipe), cone, tmp_path / "out")
    assert write_folder(model, cone, tmp_path / "from-files").is_dir()
    unload_cones(pipe)


def test_a_pipeline_that_is_dropped_is_freed(tmp_path: Path) -> None:
    """Loaded concepts keep no pipeline alive."""
    pipe = make_pipeline(tmp_path / "parts")
    load_cones(pipe, random_cone(Model.from_pipeline(pipe)))
    gone = weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert gone() is None


def test_a_failure_half_way_leaves_nothing_applied(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory in the middle of loading puts back what was changed until then."""
    from conestool.apply import live

    pipe, cone, before = model.pipe, random_cone(model), bits(model.pipe)
    work, calls = vars(live)["apply_edit_"], list[int]()

    def fail(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise torch.OutOfMemoryError("no memory left")
        work(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(live, "apply_edit_", fail)
        with pytest.raises(torch.OutOfMemoryError):
            load_cones(pipe, cone)
    assert bits(pipe) == before
    load_cones(pipe, cone)
    unload_cones(pipe)
    assert bits(pipe) == before
