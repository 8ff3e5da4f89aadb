"""Less memory, the same search: parts of a batch, recomputed activations, scores elsewhere, 16-bit denoisers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from conestool.errors import NonFiniteError, UsageError
from conestool.format import dumps
from conestool.models.model import Model
from conestool.models.prompts import encode
from conestool.search.batches import LatentImages, LossTerm
from conestool.search.config import DEFAULT_RESOURCES, Resources
from conestool.search.events import Event, Progress
from conestool.search.find import find
from conestool.search.memory import frozen_modules, recompute_activations, search_mode
from conestool.search.methods import METHODS, joint_mask, make_method, mask
from conestool.search.objective import GROWTH_INTERVAL, MAX_SCALE, LossScale, Objective
from conestool.search.parameters import FlatParameters, GradientCallback
from tests.search.gradients import whole
from tests.support.model_files import FAMILIES
from tests.support.photos import noisy_photos as photos
from tests.support.searches import common, quick

ALL = Resources(micro_batch=1, gradient_checkpointing=True, offload_scores=True)


def objective(
    model: Model, params: FlatParameters, resources: Resources = DEFAULT_RESOURCES, weight: float = 1.0
) -> Objective:
    """Two terms of three samples on random latents."""
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(model.device)
    dog, cat = encode(model, ["a sks dog"]), encode(model, ["a dog", "a picture of a dog"])
    terms = [
        LossTerm(name="instance", images=LatentImages(latents[:2]), conditioning=dog, weight=weight, size=3),
        LossTerm(
            name="class", images=LatentImages(latents[2:]), conditioning=cat, weight=weight, size=3, target="frozen"
        ),
    ]
    return Objective(model, params, terms, micro_batch_size=resources.micro_batch, num_frozen_targets=6)


def gradient(model: Model, resources: Resources = DEFAULT_RESOURCES, weight: float = 1.0) -> tuple[Tensor, float]:
    """Gradient and loss of a batch with a tenth of the weights zeroed."""
    with search_mode(model, resources) as params:
        asked = objective(model, params, resources, weight)
        kept = torch.rand(asked.weights.shape, generator=torch.Generator().manual_seed(1)) > 0.1
        return whole(asked, asked.weights * kept)


def closeness(a: Tensor, b: Tensor) -> float:
    """Relative distance of two vectors."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    "resources",
    [
        Resources(micro_batch=1),
        Resources(micro_batch=4),
        Resources(gradient_checkpointing=True),
        Resources(offload_scores=True),
        ALL,
    ],
    ids=lambda each: f"{each.micro_batch} {each.gradient_checkpointing} {each.offload_scores}",
)
def test_less_memory_gives_the_same_gradient(model: Model, resources: Resources) -> None:
    """Within 1e-5 of it, the rounding of float32 sums in another order."""
    (at_once, loss), (parts, again) = gradient(model), gradient(model, resources)
    assert closeness(parts, at_once) < 1e-5
    assert again == pytest.approx(loss, rel=1e-5)


def test_parts_are_added_in_float32(epsilon_folder: Path) -> None:
    """One by one, bfloat16 gradients are as near to those of the whole batch as bfloat16 is to float32, or nearer."""
    exact = gradient(Model.from_pretrained(str(epsilon_folder)))[0]
    half = Model.from_pretrained(str(epsilon_folder), dtype="bfloat16")
    at_once, parts = gradient(half)[0], gradient(half, Resources(micro_batch=1))[0]
    assert parts.dtype == torch.float32
    assert closeness(parts, exact) < 1.2 * closeness(at_once, exact) < 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scores_are_float32_whatever_the_denoiser_computes_in(epsilon_folder: Path, dtype: str) -> None:
    """Every floating-point tensor of every method's state, and its ranking; but the running means of `mask` (below)."""
    model = Model.from_pretrained(str(epsilon_folder), dtype=dtype)
    with search_mode(model, DEFAULT_RESOURCES) as params:
        for name in METHODS:
            method = make_method(f"{name},steps=1", objective(model, params))
            method.step(0)
            means = ("exp_avg", "exp_avg_sq") if name == "mask" else ()
            values = [value for key, value in method.state_dict().items() if key not in means]
            values.append(method.ranking().scores)
            assert {value.dtype for value in values if value.is_floating_point()} == {torch.float32}


def test_running_means_in_bfloat16_zero_the_same_weights(epsilon_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but a few in a hundred of those that float32 zeroes, and as few others; the gates themselves are float32."""
    model, found = Model.from_pretrained(str(epsilon_folder)), []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(mask, "MOMENTS", dtype)
        with search_mode(model, DEFAULT_RESOURCES) as params:
            method = make_method("mask,steps=20,l1=0", objective(model, params))
            for index in range(20):
                method.step(index)
            found.append(method.state_dict()["gates"] < 0.5)
    exact, rounded = found
    assert int(exact.sum()) > 50
    assert int((exact ^ rounded).sum()) < 0.04 * int(exact.sum())


def test_tuning_with_running_means_in_bfloat16_zeroes_the_same_weights(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As float32 would, and nearly all for the same concepts: few of what is new is asked for equally by two."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(joint_mask, "MOMENTS", dtype)
        with search_mode(model, DEFAULT_RESOURCES) as params:
            asked = [objective(model, params) for _ in range(3)]
            for seed, each in enumerate(asked):
                each.seed = seed
            draw = torch.Generator().manual_seed(1)
            owned = torch.stack([torch.rand(len(params.weights), generator=draw) < 0.01 for _ in asked])
            method = joint_mask.JointMask(asked, owned, joint_mask.JointMaskConfig(steps=20))
            for index in range(20):
                method.step(index)
            found.append((method.mask, method.assign_owners()))
    (exact, owners), (rounded, same) = found
    assert int(exact.sum()) > 200 and not torch.equal(owners, owned)
    assert int((exact ^ rounded).sum()) < 0.02 * int(exact.sum())
    assert int((owners ^ same).sum()) < 0.1 * int(owners.sum())


def test_float16_gradients_vanish_unscaled_and_are_right_scaled(epsilon_folder: Path) -> None:
    """With a loss so small that float16 has no numbers for most of its gradients."""
    exact = gradient(Model.from_pretrained(str(epsilon_folder)), weight=1e-4)[0]
    half = Model.from_pretrained(str(epsilon_folder), dtype="float16")
    with search_mode(half, DEFAULT_RESOURCES) as params:
        asked = objective(half, params, weight=1e-4)
        kept = torch.rand(asked.weights.shape, generator=torch.Generator().manual_seed(1)) > 0.1
        scaled = whole(asked, asked.weights * kept)[0]
        asked.scale = LossScale()
        bare = whole(asked, asked.weights * kept)[0]
    assert (bare == 0).float().mean() > 0.9 > 0.01 > (scaled == 0).float().mean()
    assert closeness(scaled, exact) < 0.01 < 0.5 < closeness(bare, exact)


def test_an_overflow_halves_the_scale_and_repeats_the_batch(epsilon_folder: Path) -> None:
    """Until it fits; the result is that of the scale that fits, and an overflow at 1 is the model's own.

    It grows again after a hundred batches without overflow; float32 and bfloat16 have the range.
    """
    exact = gradient(Model.from_pretrained(str(epsilon_folder)), weight=1e5)[0]
    half = Model.from_pretrained(str(epsilon_folder), dtype="float16")
    with search_mode(half, DEFAULT_RESOURCES) as params:
        asked = objective(half, params, weight=1e5)
        kept = torch.rand(asked.weights.shape, generator=torch.Generator().manual_seed(1)) > 0.1
        found = whole(asked, asked.weights * kept)[0]
        assert 1 <= asked.scale.value < MAX_SCALE
        assert closeness(found, exact) < 0.05
        again = LossScale.of(torch.float16)
        again.load_state_dict(asked.scale.state_dict())
        assert again == asked.scale
        with pytest.raises(NonFiniteError, match="float16"):
            whole(objective(half, params, weight=1e12), asked.weights * kept)
    scales = LossScale(True, MAX_SCALE / 4), LossScale.of(torch.float32), LossScale.of(torch.bfloat16)
    for _ in range(GROWTH_INTERVAL):
        for scale in scales:
            scale.update()
    assert [scale.value for scale in scales] == [MAX_SCALE / 2, 1, 1]
    assert not scales[1].state_dict() and not scales[2].state_dict()


def test_checkpointing_keeps_fewer_activations_and_is_off_afterwards(model: Model) -> None:
    """Fewer than half the bytes that the backward pass needs; where there is none, it is refused."""
    saved = []
    for resources in (DEFAULT_RESOURCES, Resources(gradient_checkpointing=True)):
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with search_mode(model, resources) as params:
            asked = objective(model, params)
            batch = asked.batch(0)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                asked.per_sample_loss(batch)
        for parameter in model.denoiser.parameters():
            sizes.pop(parameter.untyped_storage().data_ptr(), None)
        saved.append(sum(sizes.values()))
    assert saved[1] < saved[0] / 2
    assert not model.denoiser.is_gradient_checkpointing
    plain = AutoencoderTiny()
    plain._supports_gradient_checkpointing = False
    with pytest.raises(UsageError, match="AutoencoderTiny cannot recompute"):
        recompute_activations(plain).__enter__()


def test_only_kv_weights_get_gradients_in_the_backward_pass(model: Model) -> None:
    """No other parameter of the pipeline holds one, while they are there and after they were collected."""
    with search_mode(model, DEFAULT_RESOURCES) as params:
        asked = objective(model, params)
        torch.autograd.backward(asked.per_sample_loss(asked.batch(0)).sum())
        held = {name for name, each in model.denoiser.named_parameters() if each.grad is not None}
        assert held == set(params.parameters)
        whole(asked, asked.weights)
        parts = [part for part in model.pipe.components.values() if isinstance(part, nn.Module)]
        assert all(each.grad is None for part in parts for each in part.parameters())


def test_a_method_learns_nothing_from_a_step_that_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of a backward pass leaves every method as it was, so that no batch counts twice."""
    true = FlatParameters.stream_gradients

    def failing(params: FlatParameters, callback: GradientCallback) -> AbstractContextManager[None]:
        def fail(number: int, part: Tensor) -> None:
            callback(number, part)
            if number == 7:
                raise RuntimeError("stop")

        return true(params, fail)

    for name in METHODS:
        with search_mode(model, DEFAULT_RESOURCES) as params:
            method = make_method(f"{name},steps=2", objective(model, params))
            method.step(0)
            before = {key: value.clone() for key, value in method.state_dict().items()}
            with monkeypatch.context() as patch:
                patch.setattr(FlatParameters, "stream_gradients", failing)
                with pytest.raises(RuntimeError, match="stop"):
                    method.step(1)
            assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_the_loop_calls_neither_autoencoder_nor_text_encoder(model: Model) -> None:
    """From the first step of the search to the end; before it both are called."""
    calls: list[str] = []
    hooks = [part.register_forward_pre_hook(lambda *_: calls.append("part")) for part in frozen_modules(model)]
    hooks.append(model.pipe.vae.encoder.register_forward_pre_hook(lambda *_: calls.append("part")))

    def note(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "search":
            calls.append("step")

    try:
        find(model, photos(), "dog", config=quick(), callback=note)
    finally:
        for hook in hooks:
            hook.remove()
    assert calls.index("step") == calls.count("part") > 1


@pytest.mark.usefixtures("few_probes")
def test_find_with_least_memory_gives_nearly_the_same_neurons(model: Model) -> None:
    """At least 95 % of the indices in common, and a file that does not say how little memory it took."""
    whole, small = (find(model, photos(), "dog", config=quick(), resources=each) for each in (DEFAULT_RESOURCES, ALL))
    assert common(whole, small) > 0.95
    assert whole.concepts[0].origin.parameters == small.concepts[0].origin.parameters
    assert len(dumps(small)) < 1.2 * len(dumps(whole))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_goes_through_sdpa(family: str, tmp_path: Path) -> None:
    """Every attention layer of the denoiser, and no attention matrix is made by hand."""
    found, calls = Model.from_pipeline(FAMILIES[family](tmp_path)), Calls()
    layers = {name.rpartition(".")[0] for name, _ in found.denoiser.named_modules() if name.endswith(".to_k")}
    cond, noisy = encode(found, ["a dog"]), torch.zeros(1, *latent_shape(found))
    with calls, torch.no_grad():
        found.family.predict(found.denoiser, noisy, torch.tensor([5]), cond)
    assert calls.names.count("scaled_dot_product_attention") == len(layers)
    assert not {"softmax", "bmm", "baddbmm"} & set(calls.names)


def latent_shape(model: Model) -> tuple[int, ...]:
    """Channels and sides of one picture's latents."""
    latents = model.family.encode_images(model.pipe, torch.zeros(1, 3, 32, 32))
    return tuple(latents.shape[1:])


class Calls(TorchFunctionMode):
    """The names of the functions that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append("scaled_dot_product_attention" if func is SDPA else getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


SDPA = F.scaled_dot_product_attention
