"""Each subject's set in its own region of the picture alone: a study of what `cones render` could do.

A join of sets acts everywhere, so that subjects take on each other's colours. Here the base model draws the scene of
class nouns first, and DiffEdit's mask says where each of them stands; then every step of the sampler asks the denoiser
once for each subject, with its set zeroed and itself named, and takes the answer in its region. Still only integers,
but as many passes as there are subjects and one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conestool.images.photos import to_latents
from conestool.images.segmentation import diffedit_mask
from conestool.models.model import Model
from conestool.models.noise_schedule import predict_noise, schedule_of
from conestool.models.prompts import encode
from conestool.models.sampling import initial_noise, sample
from conestool.search.parameters import trainable_kv_weights
from conestool.search.subject import joined

#: What stands in a noun's place for DiffEdit's second prompt.
OTHERS = ("cup", "house", "boat")


@torch.no_grad()
def draw_in_regions(
    model: Model, nouns: Sequence[str], phrases: Sequence[str], masks: Sequence[Tensor], place: str, seed: int
) -> Image.Image:
    """Return one picture of subjects, each by its class noun, its phrase ("sks dog") and its set (n,), boolean."""
    words = joined(nouns) + place
    scene = sample(model, [words], [seed])[0]
    regions = [region_of(model, scene, nouns, number, place, words) for number in range(len(nouns))]
    told = [words]
    for number, phrase in enumerate(phrases):
        told.append(joined([phrase if n == number else noun for n, noun in enumerate(nouns)]) + place)
    pipe, schedule, generator = model.pipe, schedule_of(model), torch.Generator("cpu").manual_seed(seed)
    latents = initial_noise(model, [generator], (model.defaults.size, model.defaults.size))
    conditions = [encode(model, ["", text]) for text in told]
    pipe.scheduler.set_timesteps(model.defaults.steps)
    with trainable_kv_weights(model.denoiser) as params:
        untouched = params.get()
        weights = [untouched, *(untouched * ~mask for mask in masks)]
        for time in pipe.scheduler.timesteps:
            answers = []
            for own, condition in zip(weights, conditions, strict=True):
                params.set_(own)
                without, named = predict_noise(
                    model, schedule, latents.repeat(2, 1, 1, 1), time.long().repeat(2), condition
                )
                answers.append(without + model.defaults.guidance * (named - without))
            answer = answers[0]
            for region, own in zip(regions, answers[1:], strict=True):
                answer = torch.where(region, own, answer)
            latents = pipe.scheduler.step(answer[None], time, latents, generator=generator).prev_sample
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    image: Image.Image = pipe.image_processor.postprocess(pixels)[0]
    return image


def region_of(model: Model, scene: Image.Image, nouns: Sequence[str], number: int, place: str, words: str) -> Tensor:
    """Return where one of the nouns stands in a scene, and a cell around it: boolean, (h, w), in latents."""
    others = [joined([other if n == number else noun for n, noun in enumerate(nouns)]) + place for other in OTHERS]
    found = diffedit_mask(model, to_latents(model, [scene]), [words], [others]).float()
    return F.max_pool2d(found, 3, 1, 1)[0] > 0
