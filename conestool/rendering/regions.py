"""Each concept in its own part of the picture alone, so that joined subjects do not take on each other's colours.

Where the parts are the base model says itself: it draws the scene of class nouns with the same seed, and DiffEdit's
difference is large where another noun in a concept's place would change that picture. Then every call of the denoiser
is made once more for each concept, with its weights zeroed and no others, and its answer is taken in its part. Joining
answers by parts of the picture is MultiDiffusion's (Bar-Tal et al. 2023), whose parts are drawn by people
and whose model is one; finding them so, and a set of weights for each, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from conestool._names import find_names, has_word, key_of, plain
from conestool.concept import Cone
from conestool.errors import PromptError
from conestool.images.photos import encode_whole
from conestool.images.segmentation import diffedit_difference
from conestool.models.model import Model
from conestool.models.sampling import Progress, sample
from conestool.search.prior_images import preserved_classes

_MARGIN = 1 / 16
"""How far a region reaches beyond its mask, as a share of the picture's shorter side. Our choice."""


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


def find_regions(model: Model, scene: Image.Image, sent: str, cone: Cone) -> Tensor:
    """Where in `scene`, drawn from `bare_prompt`, each of the n concepts stands: boolean (n, h, w), in latents.

    A cell is its whose noun matters most there, a hat's on a dog's head too. A concept that the base model does not
    draw has no cell.
    """
    latents, bare = encode_whole(model, [scene]), bare_prompt(sent, cone)
    differences = []
    for concept in cone.concepts:
        free = [noun for noun in preserved_classes(model.settings, concept.class_noun) if not has_word(bare, noun)]
        others = [_with_nouns(sent, cone, {concept.name: noun}) for noun in free or ["thing"]]
        differences.append(diffedit_difference(model, latents, [bare], [others])[0])
    return share_out(torch.stack(differences), max(1, round(min(latents.shape[-2:]) * _MARGIN)))


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
    for number, seed in enumerate(seeds):
        [scene] = sample(model, [bare[number]], [seed], **common)
        regions = find_regions(model, scene, prompts[number], cone)
        with _in_regions(model, zeroed, dict(zip(cone.names, regions, strict=True))):
            images += sample(model, [prompts[number]], [seed], **common)
        if progress:
            progress(len(images), len(prompts))
    return images


@contextmanager
def _in_regions(
    model: Model, zeroed: Callable[[str], AbstractContextManager[None]], regions: Mapping[str, Tensor]
) -> Iterator[None]:
    """Within it the denoiser answers in each region, (h, w) by name, with that concept zeroed alone."""
    patch = model.family.patch_size(model.pipe)

    def answer(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        whole, *rest = output if isinstance(output, tuple) else (output.sample,)
        for name, region in regions.items():
            with zeroed(name):
                own = module.forward(*args, **kwargs)  # not a call, which would come here again
            whole = torch.where(_shaped(region, whole, patch), own[0], whole)
        return (whole, *rest) if isinstance(output, tuple) else type(output)(sample=whole)

    hook = model.denoiser.register_forward_hook(answer, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


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
