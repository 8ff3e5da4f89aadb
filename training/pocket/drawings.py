"""The drawings: every thing of the world as SVG, made of paints that follow the thing's two colours.

A paint is a blend of the main colour, the second colour and fixed colours. Blending and covering are linear in sRGB
values, so one drawing is rasterised once, into how much of each colour every pixel shows (`rasterise`), and any pair of
colours is filled in on tensors afterwards (`sprites`). The canvas is 100 by 100, faces are centred at x = 50.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from training.pocket import world

Rgb = tuple[float, float, float]
INK: Rgb = (38, 34, 44)
WHITE: Rgb = (255, 255, 255)
ROSE: Rgb = (240, 150, 150)
OUTLINE_WIDTH = 4.6


@dataclass(frozen=True)
class Colours:
    """The two colours of one rasterisation."""

    main: Rgb
    second: Rgb

    def mix(self, main: float = 0, second: float = 0, fixed: Rgb = (0, 0, 0), share: float = 0) -> str:
        """Return main * m + second * s + fixed * share as an SVG colour."""
        parts = zip(self.main, self.second, fixed, strict=True)
        return "rgb({},{},{})".format(*(round(main * m + second * s + share * f) for m, s, f in parts))

    def of(self, role: str) -> str:
        """Return the paint of a role by name."""
        table = {
            "main": self.mix(1),
            "second": self.mix(0, 1),
            "shade": self.mix(0.78),
            "second shade": self.mix(0, 0.78),
            "light": self.mix(0.72, 0, WHITE, 0.28),
            "pale": self.mix(0.14, 0, (255, 246, 234), 0.86),
            "muzzle own": self.mix(0.86, 0, WHITE, 0.14),
            "muzzle second": self.mix(0, 1),
            "ink": self.mix(fixed=INK, share=1),
            "white": self.mix(fixed=WHITE, share=1),
            "rose": self.mix(fixed=ROSE, share=1),
        }
        return table[role]


def _ellipse(x: float, y: float, rx: float, ry: float, fill: str, extra: str = "") -> str:
    return f'<ellipse cx="{x}" cy="{y}" rx="{rx}" ry="{ry}" fill="{fill}" {extra}/>'


def _path(d: str, fill: str, extra: str = "") -> str:
    return f'<path d="{d}" fill="{fill}" {extra}/>'


def _line(d: str, colour: str, width: float, extra: str = "") -> str:
    return (
        f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linecap="round" '
        f'stroke-linejoin="round" {extra}/>'
    )


def _mirror(drawn: str) -> str:
    """Return the drawing and its mirror image about x = 50."""
    return f'{drawn}<g transform="translate(100,0) scale(-1,1)">{drawn}</g>'


def _edge(outlined: bool) -> str:
    if not outlined:
        return ""
    colour = "rgb({},{},{})".format(*(round(v) for v in INK))
    return f'stroke="{colour}" stroke-width="{OUTLINE_WIDTH}" stroke-linejoin="round"'


#: Head outline, and the places that features and wearables hang on: eyes, muzzle, top of the head, chin.
@dataclass(frozen=True)
class Head:
    """The shape of a face."""

    path: str
    eye_y: float
    eye_x: float
    muzzle_y: float
    muzzle: tuple[float, float]
    top: float
    chin: float
    width: float


def _oval(x: float, y: float, rx: float, ry: float) -> str:
    """Return an oval a little fuller than an ellipse."""
    a, b = 0.62, 0.68
    return (
        f"M{x - rx},{y} C{x - rx},{y - ry * b} {x - rx * a},{y - ry} {x},{y - ry} "
        f"C{x + rx * a},{y - ry} {x + rx},{y - ry * b} {x + rx},{y} "
        f"C{x + rx},{y + ry * b} {x + rx * a},{y + ry} {x},{y + ry} "
        f"C{x - rx * a},{y + ry} {x - rx},{y + ry * b} {x - rx},{y} Z"
    )


HEADS: dict[str, Head] = {
    "dog": Head(_oval(50, 54, 29, 33), 46, 12.5, 67, (17, 14), 21, 87, 58),
    "cat": Head(_oval(50, 58, 35, 29), 54, 16, 69, (12, 9), 29, 87, 70),
    "rabbit": Head(_oval(50, 66, 26, 24), 61, 12, 75, (12, 9), 42, 90, 52),
    "bear": Head(_oval(50, 56, 33, 32), 48, 14, 68, (17, 14), 24, 88, 66),
    "pig": Head(_oval(50, 56, 34, 31), 46, 17, 63, (16, 11), 25, 87, 68),
    "elephant": Head(_oval(50, 45, 29, 31), 40, 14.5, 70, (0, 0), 14, 76, 58),
    "frog": Head(_oval(50, 62, 38, 25), 36, 19, 70, (27, 13), 37, 87, 76),
    "lion": Head(_oval(50, 55, 27, 27), 49, 12, 66, (15, 12), 28, 82, 54),
}


def _ears_behind(kind: str, ears: str, fill: str, inner: str, edge: str) -> str:
    """Return what is drawn before the head."""
    pair = {
        ("dog", "pricked"): _path("M22,46 L18,10 Q20,5 26,8 L50,28 Z", fill, edge) + _path("M25,34 L23,16 L37,27 Z", inner),
        ("cat", "pointed"): _path("M17,56 L14,14 Q15,8 21,11 L48,34 Z", fill, edge) + _path("M22,42 L20,20 L36,33 Z", inner),
        ("rabbit", "upright"): _path("M30,54 C18,30 20,4 31,3 C43,2 46,30 46,50 Z", fill, edge)
        + _path("M33,44 C26,28 27,11 32,10 C38,10 40,28 40,44 Z", inner),
        ("bear", "round"): _ellipse(23, 30, 13, 13, fill, edge) + _ellipse(24, 31, 6.5, 6.5, inner),
        ("bear", "tiny"): _ellipse(29, 29, 8, 8, fill, edge),
        ("elephant", "big"): _path("M32,22 C14,4 -6,16 -1,44 C3,68 18,78 33,64 Z", fill, edge)
        + _path("M27,30 C15,18 3,24 6,44 C9,59 18,66 28,58 Z", inner),
        ("elephant", "small"): _path("M27,26 C17,16 5,22 7,38 C9,51 18,57 27,50 Z", fill, edge),
        ("lion", "round"): "".join(
            _ellipse(x, y, 12, 12, fill, edge) for x, y in ((35, 19), (21, 31), (15, 48), (18, 66), (29, 81), (43, 88), (47, 14))
        ),
        ("lion", "spiky"): _path(
            "M52,4 L43,15 L33,3 L29,19 L12,15 L18,30 L2,36 L14,46 L1,58 L15,62 L7,78 L22,76 L22,93 L35,84 L42,98 L52,88 Z",
            fill, edge,
        ),
    }.get((kind, ears), "")  # fmt: skip
    if not pair:
        return ""
    middle = _ellipse(50, 52, 36, 38, fill) if kind == "lion" else ""
    return _mirror(pair) + middle


def _ears_before(kind: str, ears: str, fill: str, inner: str, edge: str) -> str:
    """Return what is drawn over the head."""
    pair = {
        ("dog", "floppy"): _path("M33,25 C16,18 6,34 8,54 C9,68 22,70 25,58 C27,46 28,36 38,30 Z", fill, edge),
        ("dog", "long"): _path("M32,26 C14,24 8,50 7,74 C6,98 25,98 26,80 C27,60 26,44 38,32 Z", fill, edge),
        ("cat", "folded"): _path("M15,46 Q16,24 26,24 L44,31 Q38,44 26,45 Q18,45 15,46 Z", fill, edge),
        ("rabbit", "floppy"): _path("M38,45 C20,32 8,50 9,72 C10,92 25,92 26,76 C27,62 30,52 41,49 Z", fill, edge)
        + _path("M27,50 C18,50 14,62 15,73 C16,83 21,82 21,73 C21,62 22,56 27,50 Z", inner),
        ("pig", "pointed"): _path("M20,42 L17,14 Q19,10 24,13 L46,28 Q34,32 20,42 Z", fill, edge)
        + _path("M23,33 L22,20 L34,27 Z", inner),
        ("pig", "floppy"): _path("M42,27 C28,14 10,20 10,36 C10,46 18,52 24,50 C26,40 32,32 42,27 Z", fill, edge),
    }.get((kind, ears), "")  # fmt: skip
    return _mirror(pair) if pair else ""


def _marking(kind: str, pattern: str, head: Head, fill: str) -> str:
    """Return a marking; it is clipped to the head afterwards."""
    x, y = head.eye_x, head.eye_y
    low = head.chin
    if pattern == "patch":
        return _ellipse(50 + x, y if kind != "frog" else 52, 15, 17, fill)
    if pattern == "spots":
        middle = (head.top + low) / 2
        wide = head.width / 2
        places = (
            (-0.62, -0.5, 7),
            (0.1, -0.72, 6.5),
            (0.66, -0.34, 6.5),
            (-0.8, 0.12, 6),
            (0.76, 0.3, 7),
            (-0.5, 0.62, 6),
        )
        return "".join(_ellipse(50 + a * wide, middle + b * (low - head.top) / 2, r, r, fill) for a, b, r in places)
    if pattern == "stripes":
        step = (low - head.top) / 6
        side = "".join(
            _path(f"M0,{head.top + step * i} L{50 - head.width * 0.2},{head.top + step * (i + 0.42)} "
                  f"L0,{head.top + step * (i + 0.9)} Z", fill) for i in (1.6, 3.0, 4.4)
        )  # fmt: skip
        top = _path(f"M{50 - 4},0 L50,{head.top + step * 2.0} L{50 + 4},0 Z", fill)
        beside = _path(f"M{50 - 17},0 L{50 - 11},{head.top + step * 1.5} L{50 - 8},0 Z", fill)
        return _mirror(side + beside) + top
    if pattern == "blaze":
        return _path(f"M42,0 L58,0 L55,{y + 8} Q50,{y + 14} 45,{y + 8} Z", fill)
    if pattern == "half":
        return _path("M50,0 L100,0 L100,100 L50,100 Z", fill)
    if pattern == "star":
        return _star(50, head.top + 11.5, 9.5, fill)
    return ""


def _star(x: float, y: float, r: float, fill: str) -> str:
    points = []
    for i in range(10):
        reach = r if i % 2 == 0 else r * 0.46
        angle = np.pi * (i / 5 - 0.5)
        points.append(f"{x + reach * np.cos(angle):.2f},{y + reach * np.sin(angle):.2f}")
    return _path("M" + " L".join(points) + " Z", fill)


def _eyes(kind: str, eyes: str, head: Head, paint: Colours) -> str:
    x, y = 50 - head.eye_x, head.eye_y
    white, ink = paint.of("white"), paint.of("ink")
    if eyes == "small":
        drawn = (
            _ellipse(x, y, 6.2, 6.6, white)
            + _ellipse(x, y, 4.7, 5.1, ink)
            + _ellipse(x + 1.5, y - 1.8, 1.5, 1.5, white)
        )
    elif eyes == "big":
        drawn = _ellipse(x, y, 10.5, 11.5, white) + _ellipse(x + 1.5, y + 1, 6.6, 7.4, ink)
        drawn += _ellipse(x + 3.6, y - 2.4, 2.5, 2.5, white)
    else:
        lid = f"M{x - 10},{y - 0.5} A10,9.6 0 0 1 {x + 10},{y - 0.5}"
        drawn = _ellipse(x, y, 9, 9, white) + _ellipse(x + 0.5, y + 4, 4.4, 4.6, ink)
        drawn += _path(f"{lid} Q{x},{y + 8} {x - 10},{y - 0.5} Z", paint.of("light"))
        drawn += _line(f"M{x - 9.8},{y} Q{x},{y + 8} {x + 9.8},{y}", ink, 3.2)
    return _mirror(drawn)


def _nose(kind: str, head: Head, paint: Colours) -> str:
    """Return nose, mouth and what belongs to them, over the muzzle."""
    ink, rose, white = paint.of("ink"), paint.of("rose"), paint.of("white")
    y = head.muzzle_y
    if kind == "dog":
        tongue = _path("M45,76 L45,83 Q50,90 55,83 L55,76 Z", rose)
        return (
            tongue
            + _ellipse(50, y - 6, 7.2, 5.2, ink)
            + _line(f"M50,{y} L50,{y + 5} M42,{y + 6} Q46,{y + 10} 50,{y + 6} Q54,{y + 10} 58,{y + 6}", ink, 2.6)
        )
    if kind == "cat":
        whiskers = _mirror(_line("M30,67 L6,62 M30,72 L8,76", ink, 2))
        return (
            whiskers
            + _path(
                f"M45,{y - 5} L55,{y - 5} L50,{y + 1} Z",
                rose,
                f'stroke="{ink}" stroke-width="1.6" stroke-linejoin="round"',
            )
            + _line(f"M43,{y + 4} Q46.5,{y + 7} 50,{y + 2} Q53.5,{y + 7} 57,{y + 4}", ink, 2.4)
        )
    if kind == "rabbit":
        teeth = _path("M45.5,79 L54.5,79 L54,88 L46,88 Z", white, f'stroke="{ink}" stroke-width="1.6"') + _line(
            "M50,79 L50,88", ink, 1.6
        )
        return (
            teeth
            + _path(
                f"M45,{y - 5} Q50,{y - 8} 55,{y - 5} L50,{y} Z",
                rose,
                f'stroke="{ink}" stroke-width="1.6" stroke-linejoin="round"',
            )
            + _line(f"M42,{y + 3} Q46,{y + 6} 50,{y + 2} Q54,{y + 6} 58,{y + 3}", ink, 2.4)
        )
    if kind == "bear":
        return _path("M42.5,60 Q50,56 57.5,60 Q56,68 50,68 Q44,68 42.5,60 Z", ink) + _line(
            "M50,68 L50,72 M43,74 Q50,80 57,74", ink, 2.8
        )
    if kind == "pig":
        return _mirror(_ellipse(44, y, 3, 4.6, ink)) + _line("M41,79 Q50,85 59,79", ink, 2.8)
    if kind == "frog":
        return (
            _line("M22,66 Q50,88 78,66", ink, 3.4)
            + _mirror(_ellipse(46, 57, 1.5, 1.8, ink))
            + _mirror(_ellipse(22, 73, 5, 3.4, rose))
        )
    if kind == "lion":
        return _path("M43,58 L57,58 L50,66 Z", ink, f'stroke="{ink}" stroke-width="2" stroke-linejoin="round"') + _line(
            "M50,66 L50,69 M42,70 Q46,75 50,69 Q54,75 58,70", ink, 2.6
        )
    return ""


def _trunk(fill: str, edge: str, tip: str) -> str:
    """Return the elephant's trunk, which stands for its muzzle, and its tusks."""
    tusks = _mirror(_path("M38,66 Q34,78 40,84 Q43,76 44,68 Z", "rgb(255,250,240)", edge))
    trunk = "M41,50 C40,68 42,84 50,93 C56,98 66,96 66,88 C66,82 58,82 57,80 C58,70 59,62 59,50 Z"
    rings = _line("M43,66 Q50,69 57,66 M44,75 Q50,78 57,75", tip, 2)
    return tusks + _path(trunk, fill, edge) + rings


def _animal(
    kind: str, ears: str, pattern: str, outline: str, ear_role: str, muzzle: str, eyes: str, paint: Colours
) -> str:
    head, edge = HEADS[kind], _edge(outline == "outlined")
    ear_fill = paint.of(ear_role)
    inner = (
        paint.of("rose")
        if kind in ("cat", "rabbit", "pig", "dog")
        else paint.of("second shade" if ear_role == "second" else "shade")
    )
    main = paint.of("main")
    shape = head.path
    body = _path(shape, main, edge)
    clip = shape
    if kind == "frog":
        bumps = _mirror(_ellipse(50 - head.eye_x, head.eye_y + 1, 14, 14, main, edge))
        body = bumps + body + _mirror(_ellipse(50 - head.eye_x, head.eye_y + 3, 11.6, 12, main))
    marked = _marking(kind, pattern, head, paint.of("second"))
    inside = (
        f'<clipPath id="head"><path d="{clip}"/></clipPath><g clip-path="url(#head)">{marked}</g>' if marked else ""
    )
    line = _path(shape, "none", edge) if edge and marked and kind != "frog" else ""
    muzzle_fill = paint.of({"own": "muzzle own", "pale": "pale", "second": "muzzle second"}[muzzle])
    if kind == "elephant":
        trunk_fill = paint.of({"own": "main", "pale": "pale", "second": "second"}[muzzle])
        face = _trunk(trunk_fill, edge or f'stroke="{paint.of("shade")}" stroke-width="1.6"', paint.of("shade"))
    else:
        rx, ry = head.muzzle
        snout = (
            f'stroke="{paint.of("shade")}" stroke-width="1.6"'
            if kind == "pig" and not edge
            else (edge if kind == "pig" else "")
        )
        face = _ellipse(50, head.muzzle_y, rx, ry, muzzle_fill, snout)
        if kind == "lion":
            face = _mirror(_ellipse(43, head.muzzle_y + 2, 9.5, 8.5, muzzle_fill)) + face
        if kind == "frog":
            face = f'<clipPath id="jaw"><path d="{shape}"/></clipPath><g clip-path="url(#jaw)">{_ellipse(50, 84, 34, 18, muzzle_fill)}</g>'
            face += _path(shape, "none", edge) if edge else ""
    return (
        _ears_behind(kind, ears, ear_fill, inner, edge)
        + body
        + inside
        + line
        + _ears_before(kind, ears, ear_fill, inner, edge)
        + face
        + _nose(kind, head, paint)
        + _eyes(kind, eyes, head, paint)
    )


def _pattern(pattern: str, box: tuple[float, float, float, float], fill: str) -> str:
    """Return the pattern of a thing over a box (x, y, width, height)."""
    x, y, w, h = box
    if pattern == "stripe":
        return f'<rect x="{x}" y="{y + h * 0.36}" width="{w}" height="{h * 0.28}" fill="{fill}"/>'
    if pattern == "two stripes":
        rows = (0.16, 0.6)
        return "".join(f'<rect x="{x}" y="{y + h * r}" width="{w}" height="{h * 0.22}" fill="{fill}"/>' for r in rows)
    if pattern == "spots":
        places = ((0.16, 0.28), (0.5, 0.2), (0.84, 0.3), (0.3, 0.68), (0.68, 0.66), (0.06, 0.76), (0.95, 0.74))
        r = 0.1 * min(max(w, 30), 60)
        return "".join(_ellipse(x + a * w, y + b * h, r, r, fill) for a, b in places)
    if pattern == "half":
        return f'<rect x="{x + w / 2}" y="{y - 5}" width="{w / 2 + 5}" height="{h + 10}" fill="{fill}"/>'
    if pattern == "star":
        return _star(x + w / 2, y + h * 0.52, 0.46 * min(w, h), fill)
    return ""


def _patterned(shape: str, pattern: str, box: tuple[float, float, float, float], paint: Colours, edge: str) -> str:
    """Return a shape in the main colour with its pattern inside and its outline above."""
    marked = _pattern(pattern, box, paint.of("second"))
    drawn = _path(shape, paint.of("main"))
    if marked:
        drawn += f'<clipPath id="body"><path d="{shape}"/></clipPath><g clip-path="url(#body)">{marked}</g>'
    return drawn + (_path(shape, "none", edge) if edge else "")


def _thing(kind: str, variant: str, pattern: str, outline: str, paint: Colours) -> str:
    edge = _edge(outline == "outlined")
    ink, white = paint.of("ink"), paint.of("white")
    glass = paint.mix(fixed=(190, 228, 250), share=1)
    if kind == "car":
        wheels = "".join(
            _ellipse(x, 77, 10.5, 10.5, ink) + _ellipse(x, 77, 4.5, 4.5, paint.mix(fixed=(205, 208, 214), share=1))
            for x in (27, 73)
        )
        if variant == "tall":
            body = "M6,30 Q6,24 12,24 L70,24 Q80,24 85,36 L90,50 Q96,52 96,58 L96,76 L6,76 Z"
            windows = (
                _path("M66,31 L72,31 Q77,31 80,39 L83,48 L66,48 Z", glass)
                + f'<rect x="15" y="31" width="17" height="15" rx="2" fill="{glass}"/><rect x="39" y="31" width="20" height="15" rx="2" fill="{glass}"/>'
            )
            drawn = _patterned(body, pattern, (6, 50, 90, 25), paint, edge)
        else:
            body = "M5,60 Q5,52 14,50 L24,48 L32,33 Q34,29 40,29 L62,29 Q67,29 70,33 L80,48 L88,50 Q96,52 96,60 L96,76 L5,76 Z"
            windows = _path("M31,48 L37,36 L47,36 L47,48 Z", glass) + _path(
                "M53,48 L53,36 L62,36 Q64,36 66,39 L71,48 Z", glass
            )
            drawn = _patterned(body, pattern, (5, 48, 91, 27), paint, edge)
        lamp = _ellipse(92, 60, 3.4, 3.6, paint.mix(fixed=(255, 240, 150), share=1))
        return drawn + windows + lamp + wheels
    if kind == "house":
        wall = _patterned("M16,46 L84,46 L84,92 L16,92 Z", pattern, (16, 46, 68, 46), paint, edge)
        top = f'<rect x="66" y="12" width="12" height="26" fill="{paint.of("second shade")}" {edge}/>'
        if variant == "flag":
            top = _line("M50,22 L50,1", ink, 2.6) + _path(
                "M51,2 L69,7 L51,13 Z", paint.mix(fixed=(230, 60, 60), share=1)
            )
        roof = _path(
            "M6,50 L50,15 L94,50 Z",
            paint.of("second"),
            edge or f'stroke="{paint.of("second")}" stroke-width="3" stroke-linejoin="round"',
        )
        door = _path(
            "M25,92 L25,70 Q25,62 33,62 Q41,62 41,70 L41,92 Z", paint.mix(fixed=(110, 72, 44), share=1)
        ) + _ellipse(37.5, 79, 1.7, 1.7, paint.mix(fixed=(250, 220, 120), share=1))
        frame = (
            f'<rect x="55" y="61" width="20" height="18" rx="1" fill="{glass}" stroke="{white}" stroke-width="3"/>'
            + _line("M65,61 L65,79", white, 2.4)
        )
        return top + wall + roof + door + frame
    if kind == "boat":
        hull = "M8,66 L92,66 Q88,90 70,91 L30,91 Q12,90 8,66 Z"
        mast = _line("M48,66 L48,7", paint.mix(fixed=(120, 80, 50), share=1), 4)
        sail_edge = edge or 'stroke="rgb(196,192,186)" stroke-width="1.4"'
        cloth = paint.mix(fixed=(250, 246, 236), share=1)
        sails = _path("M52,10 Q80,34 82,60 L52,60 Z", cloth, sail_edge)
        if variant == "two sails":
            sails += _path("M44,16 Q24,38 17,60 L44,60 Z", cloth, sail_edge)
        return mast + sails + _patterned(hull, pattern, (8, 66, 84, 25), paint, edge)
    if kind == "cup":
        handle = _line("M74,44 C96,40 96,74 72,72", ink, 9 + OUTLINE_WIDTH * 1.6) if edge else ""
        handle += _line("M74,44 C96,40 96,74 72,72", paint.of("shade"), 9)
        body = _patterned(
            "M18,32 L78,32 L74,80 Q72,90 62,90 L34,90 Q24,90 22,80 Z", pattern, (18, 38, 60, 46), paint, edge
        )
        rim = _ellipse(
            48,
            32,
            30,
            6,
            paint.mix(fixed=(120, 74, 44), share=1),
            edge or f'stroke="{paint.of("light")}" stroke-width="3"',
        )
        if variant == "steam":
            extra = _line(
                "M36,22 Q31,15 36,9 Q40,4 36,0 M56,22 Q51,15 56,9 Q60,4 56,0",
                paint.mix(fixed=(206, 210, 218), share=1),
                4.6,
            )
        else:
            extra = _line("M52,31 L60,4 L72,1", paint.mix(fixed=(236, 70, 90), share=1), 5)
        return handle + body + rim + extra
    if kind == "balloon":
        shape = "M50,4 C76,4 86,24 84,40 C81,56 66,64 60,72 L40,72 C34,64 19,56 16,40 C14,24 24,4 50,4 Z"
        if variant == "basket":
            below = _line("M41,72 L43,82 M59,72 L57,82", paint.mix(fixed=(110, 80, 50), share=1), 2.4)
            below += f'<rect x="40" y="82" width="20" height="15" rx="3" fill="{paint.mix(fixed=(176, 120, 66), share=1)}" {edge}/>'
        else:
            below = _path("M50,70 L42,80 L58,80 Z", paint.of("shade"), edge) + _line(
                "M50,80 Q42,88 52,92 Q58,95 52,99", ink, 2.8
            )
        gloss = _ellipse(33, 25, 5, 9, paint.of("light"), 'transform="rotate(24 33 25)"')
        return (
            below
            + _patterned(shape, pattern, (16, 6, 68, 60), paint, edge)
            + (gloss if pattern in ("plain", "star", "half") else "")
        )
    shape = "M22,30 Q22,22 30,22 L70,22 Q78,22 78,30 L78,84 Q78,92 70,92 L30,92 Q22,92 22,84 Z"
    metal = paint.mix(fixed=(168, 174, 184), share=1)
    if variant == "antenna":
        extra = _line("M50,22 L50,10", metal, 5) + _ellipse(50, 8, 6, 6, paint.mix(fixed=(238, 70, 70), share=1), edge)
        side = ""
    else:
        extra = ""
        side = _mirror(f'<rect x="8" y="42" width="16" height="22" rx="4" fill="{metal}" {edge}/>')
    face = _mirror(_ellipse(38, 43, 8.6, 8.6, white) + _ellipse(38, 43, 4.4, 4.4, ink))
    mouth = (
        f'<rect x="34" y="76" width="32" height="9" rx="3" fill="{white}" stroke="{ink}" stroke-width="2"/>'
        + _line("M42,77 L42,84 M50,77 L50,84 M58,77 L58,84", ink, 2)
    )
    return (
        extra
        + side
        + _patterned(shape, pattern, (22, 54, 56, 21) if pattern != "half" else (22, 22, 56, 70), paint, edge)
        + face
        + mouth
    )


def _hat_pattern(kind: str, pattern: str, fill: str) -> str:
    bands = {"top hat": (62, 12, 44, 9), "cap": (58, 14, 40, 8), "beanie": (62, 22, 48, 9)}[kind]
    if pattern == "band":
        return f'<rect x="0" y="{bands[0] - 2}" width="100" height="{bands[1]}" fill="{fill}"/>'
    if pattern == "two bands":
        first = {"top hat": (60, 9), "cap": (60, 8), "beanie": (68, 12)}[kind]
        return "".join(
            f'<rect x="0" y="{y}" width="100" height="{h}" fill="{fill}"/>'
            for y, h in (first, (bands[2] - 2, bands[3]))
        )
    if pattern == "stripes":
        return "".join(f'<rect x="{x}" y="0" width="8" height="100" fill="{fill}"/>' for x in (22, 38, 54, 70))
    if pattern == "spots":
        places = ((34, 36), (52, 26), (67, 38), (42, 54), (60, 56), (26, 56), (76, 58))
        return "".join(_ellipse(x, y, 5.6, 5.6, fill) for x, y in places)
    return ""


def _wearable(kind: str, pattern: str, outline: str, paint: Colours) -> str:
    edge = _edge(outline == "outlined")
    main, shade = paint.of("main"), paint.of("shade")
    if kind == "top hat":
        crown = "M27,16 Q50,9 73,16 L70,74 Q50,80 30,74 Z"
        marked = _hat_pattern(kind, pattern, paint.of("second"))
        brim = _path("M4,74 Q6,69 16,72 Q50,82 84,72 Q94,69 96,74 Q92,90 50,91 Q8,90 4,74 Z", main, edge)
        body = (
            _path(crown, main)
            + f'<clipPath id="hat"><path d="{crown}"/></clipPath><g clip-path="url(#hat)">{marked}</g>'
        )
        body += _path(crown, "none", edge) if edge else ""
        return body + brim + _ellipse(50, 15, 22, 3.6, shade)
    if kind == "cap":
        crown = "M20,74 C16,38 34,24 52,24 C72,24 84,42 82,74 Z"
        marked = _hat_pattern(kind, pattern, paint.of("second"))
        body = (
            _path(crown, main)
            + f'<clipPath id="hat"><path d="{crown}"/></clipPath><g clip-path="url(#hat)">{marked}</g>'
        )
        body += _path(crown, "none", edge) if edge else ""
        peak = _path("M18,72 Q50,62 84,72 Q104,78 98,88 Q60,76 24,86 Q16,82 18,72 Z", shade, edge)
        return _ellipse(52, 22, 5, 4, shade, edge) + body + peak
    if kind == "beanie":
        dome = "M18,76 C16,40 32,24 50,24 C68,24 84,40 82,76 Z"
        marked = _hat_pattern(kind, pattern, paint.of("second"))
        body = (
            _path(dome, main) + f'<clipPath id="hat"><path d="{dome}"/></clipPath><g clip-path="url(#hat)">{marked}</g>'
        )
        body += _path(dome, "none", edge) if edge else ""
        cuff = f'<rect x="13" y="72" width="74" height="19" rx="8" fill="{shade}" {edge}/>'
        pompom = _ellipse(50, 17, 13, 12, paint.of("light"), edge)
        return body + pompom + cuff
    if kind == "crown":
        gem = paint.mix(fixed=(255, 255, 255), share=1)
        shape = "M14,90 L8,36 L30,58 L50,22 L70,58 L92,36 L86,90 Z"
        jewels = "".join(_ellipse(x, y, 5, 5, gem) for x, y in ((32, 78), (50, 78), (68, 78)))
        tips = "".join(_ellipse(x, y, 5.4, 5.4, main, edge) for x, y in ((8, 34), (50, 20), (92, 34)))
        return _path(shape, main, edge) + tips + jewels
    if kind == "glasses":
        rim = f'stroke="{main}" stroke-width="7"'
        lens = paint.mix(fixed=(225, 240, 250), share=1)
        dark = (
            _mirror(_ellipse(27, 50, 18, 18, "none", f'stroke="{paint.of("ink")}" stroke-width="11"'))
            + _line("M42,47 Q50,41 58,47", paint.of("ink"), 11)
            if edge
            else ""
        )
        return (
            dark
            + _mirror(_ellipse(27, 50, 18, 18, lens, f'fill-opacity="0.35" {rim}'))
            + _line("M44,47 Q50,42 56,47", main, 7)
        )
    if kind == "scarf":
        tail = _path("M60,46 L78,44 L82,88 L62,90 Z", shade, edge)
        loop = _path("M12,32 Q50,50 88,32 Q94,44 88,52 Q50,72 12,52 Q6,44 12,32 Z", main, edge)
        return tail + loop
    knot = f'<rect x="42" y="40" width="16" height="20" rx="5" fill="{shade}" {edge}/>'
    return _mirror(_path("M48,50 L14,28 Q8,26 8,34 L8,66 Q8,74 14,72 Z", main, edge)) + knot


@dataclass(frozen=True)
class Drawing:
    """What decides the shape of a drawing: everything but its colours. ``roles`` are ear and muzzle paints."""

    kind: str
    pattern: str
    outline: str
    ears: str = ""
    ear_role: str = "main"
    muzzle: str = "own"
    eyes: str = "small"
    variant: str = ""

    @classmethod
    def of(cls, thing: world.Thing) -> Drawing:
        """Return the drawing of a thing without what it wears."""
        if not thing.is_animal:
            return cls(thing.kind, thing.pattern, thing.outline, variant=thing.variant)
        ear_role = "second" if thing.second and thing.ear_colour == thing.second else "main"
        muzzle = "pale" if thing.muzzle == "pale" else "own" if thing.muzzle == thing.main else "second"
        return cls(thing.kind, thing.pattern, thing.outline, thing.ears, ear_role, muzzle, thing.eyes)

    def svg(self, paint: Colours) -> str:
        """Return the SVG in two colours."""
        if self.kind in world.EARS:
            parts = (self.kind, self.ears, self.pattern, self.outline, self.ear_role, self.muzzle, self.eyes)
            body = _animal(*parts, paint)
        elif self.kind in world.VARIANTS:
            body = _thing(self.kind, self.variant, self.pattern, self.outline, paint)
        else:
            body = _wearable(self.kind, self.pattern, self.outline, paint)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-3 -3 106 106">{body}</svg>'


def all_drawings() -> list[Drawing]:
    """Return every drawing of the world, in a fixed order."""
    found = []
    for kind, ears in world.EARS.items():
        for ear in ears:
            roles = ("second",) if kind == "lion" else ("main", "second") if ear else ("main",)
            found += [
                Drawing(kind, pattern, outline, ear, role, muzzle, eyes)
                for role in roles for pattern in world.MARKINGS for outline in world.OUTLINES
                for muzzle in world.MUZZLES for eyes in world.EYES
            ]  # fmt: skip
    for kind, variants in world.VARIANTS.items():
        found += [Drawing(kind, p, o, variant=v) for v in variants for p in world.PATTERNS for o in world.OUTLINES]
    for kind in world.WEARABLES:
        patterns = world.HAT_PATTERNS if kind in world.HATS else ("plain",)
        found += [Drawing(kind, p, o) for p in patterns for o in world.OUTLINES]
    return found


def _pixels(svg: str, size: int) -> NDArray[np.float32]:
    """Rasterise to premultiplied RGBA in [0, 1]: (size, size, 4)."""
    data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    rgba = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGBA"), dtype=np.float32) / np.float32(255)
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


def rasterise(drawing: Drawing, size: int) -> NDArray[np.uint8]:
    """Return (6, size, size) bytes: fixed R, G, B (premultiplied), alpha, share of the main colour, of the second."""
    fixed = _pixels(drawing.svg(Colours((0, 0, 0), (0, 0, 0))), size)
    coloured = _pixels(drawing.svg(Colours((255, 0, 0), (0, 255, 0))), size)
    shares = coloured[..., :2] - fixed[..., :2]
    stacked = np.concatenate([fixed, shares], 2).clip(0, 1)
    return np.round(stacked.transpose(2, 0, 1) * 255).astype(np.uint8)
