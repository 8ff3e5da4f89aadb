"""Each concept in its own part of the picture alone, so that joined subjects do not take on each other's colours.

Where the parts are the base model says itself: it draws the scene of class nouns with the same seed, and DiffEdit's
difference is large where another noun in a concept's place would change that picture. Then every call of the denoiser
is made once more for each concept, with its weights zeroed and no others, and its answer is taken in its part. Joining
answers by parts of the picture is MultiDiffusion's (Bar-Tal et al. 2023), whose parts are drawn by people
and whose model is one; finding them so, and a set of weights for each, is ours.

What a concept learned is strongest where its subject stands alone and large, as in photos. So each of several concepts
is drawn alone first and put in its place in the scene. While there is much noise, the picture follows that collage in
the parts, as SDEdit's do (Meng et al. 2022); then each concept draws on there, asked in the words of its picture alone,
and the base model draws all that is between them from the first step on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from conestool._names import find_names, has_word, key_of, plain
from conestool.concept import Cone
from conestool.errors import PromptError
from conestool.images.pasting import paste_subject
from conestool.images.photos import encode_whole
from conestool.images.segmentation import diffedit_difference
from conestool.models.model import Model
from conestool.models.noise_schedule import schedule_of
from conestool.models.sampling import Progress, sample
from conestool.search.prior_images import preserved_classes

_MARGIN = 1 / 16
"""How far a region reaches beyond its mask, as a share of the picture's shorter side. Our choice."""
_START = 0.4
"""The share of the noise schedule down to which a picture follows its collage. Our choice."""
_SCALE = 0.9
"""How large a subject of a collage is, measured by its region, so that neighbours keep apart. Our choice."""
_LATENTS = "sample", "hidden_states"
_CHANGING = (*_LATENTS, "timestep")
"""Arguments of the denoiser that change from call to call."""


@dataclass(frozen=True)
class _Phrase:
    """A concept's phrase ("sks dog") as a name that gives way to `class_noun`."""

    name: str
    identifier: str
    class_noun: str


def bare_prompt(sent: str, cone: Cone) -> str:
    """The prompt as sent, "a sks dog", without identifiers: "a dog"; PromptError for a concept that is not in it."""
    there = {span.key for span in find_names(sent, [concept.phrase for concept in cone.concepts])}
    if missing := [concept.name for concept in cone.concepts if key_of(concept.phrase) not in there]:
        raise PromptError(
            f"regions: the prompt {sent!r} does not name {', '.join(missing)}",
            "a concept acts where its words are drawn; name it, or leave it out",
        )
    return _with_nouns(sent, cone, {})


def own_prompt(sent: str, cone: Cone, name: str) -> str:
    """The prompt as sent, "a sks dog and a zwx hat at night", of the concept `name` alone: "a sks dog at night".

    Its phrase stands for all that is said from the first concept's phrase to the last one's.
    """
    spans = find_names(sent, [concept.phrase for concept in cone.concepts])
    own = next(span for span in spans if span.key == key_of(cone[name].phrase))
    return sent[: spans[0].start] + sent[own.start : own.end] + sent[spans[-1].end :]


def find_regions(model: Model, scene: Image.Image, sent: str, cone: Cone, *, margin: bool = True) -> Tensor:
    """Where in `scene`, drawn from `bare_prompt`, each of the n concepts stands: boolean (n, h, w), in latents.

    A cell is its whose noun matters most there, a hat's on a dog's head too. A concept that the base model does not
    draw has no cell. With a `margin` regions reach a little beyond what is found.
    """
    latents, bare = encode_whole(model, [scene]), bare_prompt(sent, cone)
    differences = []
    for concept in cone.concepts:
        free = [noun for noun in preserved_classes(model.settings, concept.class_noun) if not has_word(bare, noun)]
        others = [_with_nouns(sent, cone, {concept.name: noun}) for noun in free or ["thing"]]
        differences.append(diffedit_difference(model, latents, [bare], [others])[0])
    reach = max(1, round(min(latents.shape[-2:]) * _MARGIN)) if margin else 0
    return share_out(torch.stack(differences), reach)


def share_out(differences: Tensor, reach: int) -> Tensor:
    """Regions, boolean (n, h, w), without overlap: each the cells in which its difference (n, h, w) is above 1 and the
    largest, and those around them, as far as `reach`, that are no other's."""
    owners = torch.arange(len(differences), device=differences.device)[:, None, None]
    masks = (differences > 1) & (differences.argmax(0) == owners)
    grown = F.max_pool2d(masks.float(), 2 * reach + 1, 1, reach) > 0
    near = differences.masked_fill(~grown, -1)
    return grown & (near.argmax(0) == owners)


def sample_in_regions(
    model: Model,
    cone: Cone,
    zeroed: Callable[[str], AbstractContextManager[None]],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    progress: Progress | None = None,
    **common: Any,
) -> list[Image.Image]:
    """One picture per pair of `prompts` and `seeds`, with each concept of `cone` in its region alone.

    `zeroed` gives a context in which the concept of a name is zeroed (`applied_in_turn`), `common` are the settings of
    `sample`. PromptError, before anything is drawn, for a prompt that does not name a concept.
    """
    bare = [bare_prompt(prompt, cone) for prompt in prompts]
    images: list[Image.Image] = []
    for number, (sent, seed) in enumerate(zip(prompts, seeds, strict=True)):

        def draw(prompt: str, seed: int = seed) -> Image.Image:
            return sample(model, [prompt], [seed], **common)[0]

        scene = draw(bare[number])
        single = len(cone.concepts) == 1
        regions = dict(zip(cone.names, find_regions(model, scene, sent, cone, margin=single), strict=True))
        plan = _Plan(regions) if single else _collage(model, cone, zeroed, sent, scene, regions, draw)
        with _in_regions(model, zeroed, plan):
            images.append(draw(sent))
        if progress:
            progress(len(images), len(prompts))
    return images


@dataclass(frozen=True)
class _Plan:
    """Whose each part of a picture is: `regions`, boolean (h, w), by the concept's name.

    Of several concepts also the `collage`, latents (1, c, h, w), that the picture begins as, and in `calls` by name the
    denoiser's arguments, call by call, for the picture of that concept alone.
    """

    regions: Mapping[str, Tensor]
    calls: Mapping[str, Sequence[_Call]] = field(default_factory=dict)
    collage: Tensor | None = None


def _collage(
    model: Model,
    cone: Cone,
    zeroed: Callable[[str], AbstractContextManager[None]],
    sent: str,
    scene: Image.Image,
    regions: Mapping[str, Tensor],
    draw: Callable[[str], Image.Image],
) -> _Plan:
    """Each concept drawn alone and put in its region of the scene; the smaller lie on top, as what is worn does."""
    parts: dict[str, Tensor] = {}
    calls: dict[str, Sequence[_Call]] = {}
    for name in sorted(regions, key=lambda name: int(regions[name].sum()), reverse=True):
        if not regions[name].any():
            continue
        own = own_prompt(sent, cone, name)
        with zeroed(name), _recorded(model) as calls[name]:
            alone = draw(own)
        [cut] = find_regions(model, alone, own, Cone((cone[name],)), margin=False)
        scene, share = paste_subject(scene, regions[name], alone, cut, scale=_SCALE)
        mine = share.to(cut.device) > 0.5
        parts = {other: region & ~mine for other, region in parts.items()} | {name: mine}
    return _Plan(parts, calls, encode_whole(model, [scene]))


@dataclass(frozen=True)
class _Call:
    """One call of the denoiser: noisy latents and timestep first, or under their names, and what it is told beside."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def of(self, now: _Call) -> _Call:
        """The same words and sizes for the latents and the timestep of another call."""
        changing = {key: value for key, value in now.kwargs.items() if key in _CHANGING}
        return _Call((*now.args[:2], *self.args[2:]), {**self.kwargs, **changing})

    @property
    def noisy(self) -> Tensor:
        """The noisy latents, as the denoiser has them."""
        found: Tensor = self.args[0] if self.args else next(self.kwargs[key] for key in _LATENTS if key in self.kwargs)
        return found

    @property
    def timestep(self) -> float:
        """What the denoiser is told of the noise."""
        return float(torch.as_tensor(self.args[1] if len(self.args) > 1 else self.kwargs["timestep"]).flatten()[0])


@contextmanager
def _recorded(model: Model) -> Iterator[list[_Call]]:
    """Within it all calls of the denoiser are kept, without latents."""
    calls: list[_Call] = []

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        told = {key: value for key, value in kwargs.items() if key not in _CHANGING}
        calls.append(_Call((*[None] * len(args[:2]), *args[2:]), told))

    hook = model.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def _in_regions(model: Model, zeroed: Callable[[str], AbstractContextManager[None]], plan: _Plan) -> Iterator[None]:
    """Within it the denoiser answers in each region with that concept zeroed alone; at first, as the collage would."""
    patch, numbers = model.family.patch_size(model.pipe), count()
    seen = None if plan.collage is None else _seen(model, plan.collage)

    def answer(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        whole, *rest = output if isinstance(output, tuple) else (output.sample,)
        number, now = next(numbers), _Call(args, kwargs)
        told = seen(now, whole) if seen else None
        for name, region in plan.regions.items():
            own = told
            if own is None:
                call = plan.calls[name][number].of(now) if name in plan.calls else now
                with zeroed(name):
                    own = module.forward(*call.args, **call.kwargs)[0]  # not a call, which would come here again
            whole = torch.where(_shaped(region, whole, patch), own, whole)
        return (whole, *rest) if isinstance(output, tuple) else type(output)(sample=whole)

    hook = model.denoiser.register_forward_hook(answer, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _seen(model: Model, collage: Tensor) -> Callable[[_Call, Tensor], Tensor | None]:
    """What the denoiser would answer to a call, in the shape of its output, if the collage were all that it knows.

    None where there is less noise than `_START`.
    """
    schedule, latents = schedule_of(model), model.family.pack(collage)

    def answer(call: _Call, output: Tensor) -> Tensor | None:
        time = call.timestep * model.family.timestep_divisor
        index = int((schedule.timesteps - time).abs().argmin())
        if index < _START * len(schedule):
            return None
        noisy = call.noisy.float()
        times = torch.full((len(noisy),), index)
        alpha, sigma = schedule.coefficients(noisy, times)
        clean = latents.to(noisy).expand_as(noisy)
        found = schedule.target(clean, (noisy - alpha * clean) / sigma, times).to(output)
        variance = output[:, found.shape[1] :] if output.dim() == 4 else output[:, :0]
        return torch.cat([found, variance], dim=1)

    return answer


def _shaped(region: Tensor, output: Tensor, patch: int) -> Tensor:
    """A region (h, w) as it lies over an output (b, c, h, w), or over one of `patch`es in reading order, (b, n, c)."""
    region = region.to(output.device)
    if output.dim() == 4:
        return region
    return F.max_pool2d(region[None].float(), patch)[0].flatten()[:, None] > 0


def _with_nouns(sent: str, cone: Cone, instead: Mapping[str, str]) -> str:
    """The prompt with a noun in the place of each concept's phrase: its class noun, or that `instead` by its name."""
    words = [(each, instead.get(each.name, each.class_noun)) for each in cone.concepts]
    return plain(sent, [_Phrase(each.phrase, each.identifier, noun) for each, noun in words])
