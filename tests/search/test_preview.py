"""What a search would learn from, and what it draws while it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from conestool import Model, SearchConfig, find, preview
from conestool.errors import PhotoError
from conestool.images.photos import as_photo, read_photos
from conestool.rendering.samples import preview_sheet, strip
from conestool.search.events import Event, Progress, Samples
from tests.support.searches import quick

EXAMPLES = Path(__file__).parents[2] / "examples" / "rex"


@pytest.fixture(scope="module")
def pocket() -> Model:
    return Model.from_pretrained("pocket", device="cpu")


def test_a_preview_shows_what_find_learns_from(pocket: Model) -> None:
    """Crops, captions as given, what is held out, and the subject, which lies in the middle of these photos."""
    photos, _ = read_photos([EXAMPLES])
    photos = [replace(photo, caption="at home") for photo in photos]
    found = preview(pocket, photos, "dog", identifier="sks", config=SearchConfig(captions="given"))
    assert [each.photo.name for each in found.photos] == [f"{k}.jpg" for k in range(1, 6)]
    assert sorted(len(each.crops) for each in found.photos) == [0, 3, 3, 3, 3]
    assert [each.held_out for each in found.photos].count(True) == 1
    for each in found.photos:
        assert each.prompts[0] == "a photo of a sks dog at home" and each.image.size == (64, 64)
        ring = np.concatenate([each.subject[[0, -1]].ravel(), each.subject[:, [0, -1]].ravel()])
        assert each.subject[3:5, 3:5].mean() > 0.8 and ring.mean() < 0.1
        assert each.advice == ()
    assert found.advice == (
        "one background in all photos (at home): it may be learned with the subject; take some elsewhere",
    )
    assert preview_sheet(found).width > 5 * 256
    assert found.record()["photos"][0]["prompts"][0] == "a photo of a sks dog at home"


def test_a_preview_advises_on_photos_that_spoil_a_search(pocket: Model) -> None:
    """A twin, a blurred one, a small one, a subject that is far away, and too few of them."""
    with Image.open(EXAMPLES / "4.jpg") as image:
        first = image.convert("RGB")
    twin, blurred = first.crop((3, 3, 250, 250)), first.filter(ImageFilter.GaussianBlur(10))
    far = Image.new("RGB", first.size, "white")
    far.paste(first.resize((40, 40)), (100, 100))
    small = first.resize((40, 40)).transpose(Image.Transpose.ROTATE_90)
    pictures = {"first": first, "twin": twin, "blurred": blurred, "far": far, "small": small}
    photos = [as_photo(image, name) for name, image in pictures.items()]
    told = {each.photo.name: " ".join(each.advice) for each in preview(pocket, photos, "dog", config=quick()).photos}
    assert told["first"] == "" and "the same as first" in told["twin"] and "blurred" in told["blurred"]
    assert "crop closer" in told["far"] and "enlarged to the model's 64" in told["small"]
    few = preview(pocket, photos[:2], "ocarina", config=quick()).advice
    assert "2 photos only" in few[0] and "'ocarina'" in few[1] and "one background" in few[2]
    with pytest.raises(PhotoError, match="no photos"):
        preview(pocket, [], "dog")


@pytest.mark.parametrize("method", ["mask", pytest.param("tstat", marks=pytest.mark.long)])
def test_samples_are_drawn_and_change_nothing(epsilon_folder: Path, few_probes: None, method: str) -> None:
    """At the start, every N steps and at the end; the file is the same, with its loss curve, and a strip grows."""
    model, events = Model.from_pretrained(str(epsilon_folder)), list[Event]()
    photos = [Image.new("RGB", (32, 32), colour) for colour in ("teal", "red", "navy")]
    config = quick(method, 5)
    watched = find(model, photos, "dog", identifier="sks", config=config, callback=events.append, sample_every=2)
    drawn = [event for event in events if isinstance(event, Samples)]
    assert [event.done for event in drawn] == [0, 2, 4, 5] and drawn[0].prompts == ["a photo of a sks dog"]
    assert drawn[0].images[0].tobytes() != drawn[-1].images[0].tobytes()
    losses = [event.loss for event in events if isinstance(event, Progress) and event.stage == "search"]
    curve = watched.concepts[0].origin.parameters["loss_curve"]
    assert curve == pytest.approx(losses, rel=1e-3)
    assert find(model, photos, "dog", identifier="sks", config=config) == watched
    grown = strip(drawn, before=strip(drawn[:1]))
    assert grown.width > 4 * 256 and grown.height > 2 * 256
