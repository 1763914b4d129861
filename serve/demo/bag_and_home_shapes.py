"""Draws bags, mugs, lamps and chairs. Each function returns the parts of one variant."""

from serve.demo.geometry import Pair, Part, Stroke, both, box, curve, ellipse, line, loop, mirror, path, ribbon


def backpack(variant: int) -> list[Part]:
    left = ribbon(curve((33, 30), (20, 42), (17, 64), (27, 84)), 6)
    parts = [
        Part(left, "trim"),
        Part(mirror(left), "trim"),
        Part(ribbon(curve((42, 16), (43, 6), (57, 6), (58, 16)), 3), "trim"),
    ]
    if variant == 1:  # Roll-top.
        parts += [
            Part(box(27, 24, 73, 92, 6), folds=0.1),
            Part(box(26, 12, 74, 27, 5), strokes=[Stroke(line((27, 20), (73, 20)), 0.8)]),
            Part(ribbon(line((50, 12), (50, 50)), 3.4), "trim"),
            Part(box(46, 37, 54, 44, 1.5), "dark", relief=0.5),
        ]
        pocket = box(33, 58, 67, 86, 4)
    else:
        parts.append(Part(both(curve((50, 11), (63, 13), (72, 26), (74, 50), (74, 80), (70, 91), (50, 92))), folds=0.1))
        pocket = both(curve((50, 57), (63, 57.5), (67, 62), (67, 80), (63, 86), (50, 87)))
    parts.append(
        Part(
            pocket,
            "trim" if variant == 0 else "body",
            strokes=[Stroke(line((35, 63), (65, 63)), 0.8), Stroke(line((62, 63), (62, 68)), 1.2, "lace")],
        )
    )
    if variant == 2:  # A flap with two buckled straps.
        flap = both(path(curve((50, 9), (63, 11), (74, 24), (76, 42)), curve((76, 44), (66, 50), (50, 51))))
        parts.append(Part(flap, strokes=[Stroke(mirror(flap), 0.5, "stitch")], folds=0.06))
        for x in (38.0, 62.0):
            parts += [
                Part(ribbon(line((x, 38), (x, 66)), 4), "wood"),
                Part(box(x - 3.2, 53, x + 3.2, 59, 1), "brass", relief=0.4),
            ]
    elif variant == 0:
        zip_ = curve((29, 46), (33, 27), (50, 20), (67, 27), (71, 46))
        parts += [
            Part(ribbon(zip_, 1.4), "dark", relief=0.2),
            Part(box(45, 36, 55, 44, 1.5), "wood", relief=0.5, strokes=[Stroke(line((47, 40), (53, 40)), 0.7)]),
        ]
    return parts


def handbag(variant: int) -> list[Part]:
    handle = curve((36, 46), (35, 26), (42, 12), (58, 12), (65, 26), (64, 46), steps=14)
    if variant == 0:  # Tote.
        bag = both(
            path(line((50, 38), (74, 38)), curve((74, 38), (80, 70), (82, 84)), curve((82, 85), (78, 88), (50, 88)))
        )
        return [
            Part(ribbon(handle - [0, 3], 3), "wood"),
            Part(bag, folds=0.1, strokes=[Stroke(line((23, 42), (77, 42)), 0.6, "stitch")]),
            Part(ribbon(line((36, 38), (36, 52)), 4.5), "wood"),
            Part(ribbon(line((64, 38), (64, 52)), 4.5), "wood"),
            Part(ellipse(36, 49, 1, 1), "brass"),
            Part(ellipse(64, 49, 1, 1), "brass"),
        ]
    if variant == 1:  # Top-handle bag with a flap.
        body = both(path(curve((50, 40), (70, 40), (76, 44)), curve((78, 50), (82, 82), (78, 86)), line((50, 87))))
        flap = both(path(curve((50, 39), (70, 39), (77, 43)), curve((77, 46), (72, 62), (50, 66))))
        return [
            Part(ribbon(handle - [0, -4], 4), "trim"),
            Part(body, folds=0.04),
            Part(flap, strokes=[Stroke(flap * 0.94 + [3, 3], 0.5, "stitch")]),
            Part(box(45, 59, 55, 69, 2), "brass", strokes=[Stroke(line((48, 64), (52, 64)), 0.9)]),
        ]
    if variant == 2:  # Bucket.
        body = both(
            path(line((50, 40), (66, 40)), curve((66, 40), (70, 64), (76, 88)), curve((76, 88), (66, 92), (50, 93)))
        )
        return [
            Part(ribbon(curve((33, 48), (24, 26), (38, 8), (62, 8), (76, 26), (67, 48), steps=14), 2.6), "wood"),
            Part(body, folds=0.2),
            Part(ellipse(50, 40, 16, 4.6), "lining"),
            Part(both(path(line((50, 79), (74, 78)), curve((76, 88), (66, 92), (50, 93)))), "wood", clipped=True),
            Part(ribbon(curve((32, 50), (50, 54), (68, 50)), 1.4), "wood", relief=0.3),
            Part(ribbon(curve((50, 53), (47, 60), (48, 67)), 1.4), "wood", relief=0.3),
            Part(ribbon(curve((50, 53), (54, 60), (53, 68)), 1.4), "wood", relief=0.3),
        ]
    body = path(
        curve((16, 44), (30, 58), (50, 62), (70, 58), (84, 44)),
        curve((88, 60), (80, 80), (50, 87), (20, 80), (12, 60), (16, 44)),
    )
    return [  # Hobo.
        Part(ribbon(curve((17, 50), (22, 26), (50, 10), (78, 26), (83, 50), steps=14), 5.5), "trim"),
        Part(
            body, folds=0.16, strokes=[Stroke(curve((17, 49), (32, 62), (50, 66), (68, 62), (83, 49)), 0.6, "stitch")]
        ),
        Part(ellipse(18, 47, 3, 3), "brass"),
        Part(ellipse(82, 47, 3, 3), "brass"),
    ]


def mug(variant: int) -> list[Part]:
    top, bottom, upper, lower = (
        (26.0, 84.0, 25.0, 24.0),
        (30.0, 82.0, 28.0, 19.0),
        (30.0, 84.0, 22.0, 18.0),
        (12.0, 88.0, 20.0, 17.0),
    )[variant]
    x = 44.0
    belly = upper + 8 if variant == 2 else (upper + lower) / 2
    swell = (belly - (upper + lower) / 2) * 0.85
    right = curve(
        (x + upper, top),
        (x + (3 * upper + lower) / 4 + swell, top + 15),
        (x + belly, (top + bottom) / 2),
        (x + (upper + 3 * lower) / 4 + swell, bottom - 14),
        (x + lower, bottom - 3),
    )
    foot = ellipse(x, bottom - 3, lower, 5, (0, 180))
    body = path(right, foot, (right * [-1, 1] + [2 * x, 0])[::-1], ellipse(x, top, upper, 5.5, (180, 0)))
    reach = x + (belly if variant == 2 else upper)
    middle = (top + bottom) / 2
    grip = (bottom - top) * 0.27
    handle = curve(
        (reach - 4, middle - grip),
        (reach + 12, middle - grip),
        (reach + 17, middle),
        (reach + 11, middle + grip),
        (reach - 6, middle + grip * 1.1),
        steps=14,
    )
    camp = variant == 1
    rim: list[Part] = [
        Part(ellipse(x, top, upper + 0.4, 6), "dark" if camp else "body", relief=0.4),
        Part(ellipse(x, top + 0.5, upper - 1.6, 4.6), "rubber" if camp else "lining", relief=-0.6),
    ]
    return [
        Part(ribbon(handle, 6), "dark" if camp else "trim" if variant == 3 else "body"),
        Part(body, tube=True, relief=0.4),
        *rim,
    ]


def lamp(variant: int) -> list[Part]:
    bulb = Part(ellipse(50, 50, 5, 5), "rubber")
    if variant == 0:  # Cone shade, turned base.
        shade = both(path(line((50, 10), (60, 10)), line((76, 50)), curve((76, 50), (66, 53), (50, 54))))
        base = both(curve((50, 60), (53, 61), (54, 64), (61, 72), (62, 80), (56, 88), (50, 89)))
        return [
            Part(ribbon(line((50, 48), (50, 64)), 3), "brass", tube=True),
            Part(base, "trim", tube=True),
            Part(box(38, 88, 62, 92, 2), "brass"),
            Part(shade, tube=True, relief=0.5),
        ]
    if variant == 1:  # Drum shade, tripod.
        legs = [Part(ribbon(line((50 + 2 * s, 50), (50 + 20 * s, 93)), 3.4, 2.4), "wood") for s in (-1, 1)]
        middle = Part(ribbon(line((50, 50), (50, 91)), 3.2, 2.4), "wood")
        shade = both(path(ellipse(50, 14, 24, 3.5, (270, 360)), ellipse(50, 47, 25, 4, (0, 90))))
        return [middle, *legs, Part(box(45, 50, 55, 56, 2), "brass"), Part(shade, tube=True, relief=0.5)]
    if variant == 2:  # Dome on a bent arm: a desk lamp.
        dome = path(curve((22, 45), (22, 26), (40, 14), (58, 26), (58, 45)), curve((58, 45), (40, 49), (22, 45)))
        arm = curve((41, 17), (54, 5), (72, 10), (76, 28), (73, 60), (70, 87), steps=14)
        return [
            Part(ribbon(arm, 2.6), "brass"),
            Part(ellipse(40, 46, 7, 6.5), "rubber"),
            Part(dome, relief=1.2, tube=True),
            Part(ellipse(40, 45.4, 18, 2.6), "lining", relief=-0.5),
            Part(path(ellipse(70, 88, 17, 4, (180, 360)), ellipse(70, 91, 17, 4, (0, 180))), "trim"),
        ]
    shade = ellipse(50, 34, 24, 23)  # Globe on a stem.
    return [
        bulb,
        Part(ribbon(line((50, 54), (50, 88)), 2.6), "brass", tube=True),
        Part(path(ellipse(50, 88, 16, 3.5, (180, 360)), ellipse(50, 90.5, 16, 3.5, (0, 180))), "brass"),
        Part(box(43, 53, 57, 60, 2), "brass"),
        Part(shade, relief=1.8, strokes=[Stroke(ellipse(50, 34, 18, 17, (195, 245)), 1.8, "shine")]),
    ]


def chair(variant: int) -> list[Part]:
    legs: list[tuple[Pair, Pair]] = [
        ((33, 60), (29, 84)),
        ((69, 60), (73, 84)),
        ((28, 64), (23, 94)),
        ((74, 64), (79, 94)),
    ]
    wood = [Part(ribbon(line(*leg), 3.8, 2.4), "wood" if variant != 2 else "dark") for leg in legs]
    seat = path(
        curve((31, 56), (51, 54), (71, 56)),
        curve((71, 56), (80, 63), (78, 68)),
        curve((78, 68), (51, 72), (24, 68)),
        curve((24, 68), (22, 63), (31, 56)),
    )
    if variant == 0:  # Dining chair with a padded back.
        posts = [Part(ribbon(line((x, 60), (x + lean, 10)), 3.6), "wood") for x, lean in ((33.0, -3.0), (69.0, 3.0))]
        return [
            *wood[:2],
            *posts,
            Part(loop((34, 11), (51, 8), (68, 11), (70, 24), (67, 38), (51, 40), (35, 38), (32, 24)), relief=1.2),
            *wood[2:],
            Part(seat, relief=1.2),
        ]
    if variant == 1:  # Armchair.
        arms = path(
            curve((16, 44), (24, 42), (28, 48)), line((29, 78)), curve((28, 82), (20, 84), (15, 80)), line((14, 50))
        )
        back = loop((26, 14), (51, 8), (76, 14), (80, 40), (74, 66), (51, 70), (28, 66), (22, 40))
        return [
            Part(ribbon(line((22, 78), (19, 94)), 4, 2.6), "wood"),
            Part(ribbon(line((80, 78), (83, 94)), 4, 2.6), "wood"),
            Part(back, relief=1.3, folds=0.04),
            Part(box(24, 70, 78, 84, 3)),
            Part(box(25, 56, 77, 72, 6), relief=1.2),
            Part(arms, relief=1.1),
            Part(arms * [-1, 1] + [102, 0], relief=1.1),
        ]
    if variant == 2:  # Shell on thin legs.
        shell = path(
            curve((26, 40), (27, 18), (51, 10), (75, 18), (76, 40)),
            curve((76, 40), (84, 52), (79, 64), (51, 69), (23, 64), (18, 52), (26, 40)),
        )
        return [
            *wood,
            Part(shell, relief=1.3),
            Part(curve((31, 50), (51, 46), (71, 50), (74, 60), (51, 65), (28, 60), (31, 50)), relief=-1.0),
        ]
    slats = [Part(ribbon(line((x, 58), (x + (x - 51) * 0.06, 22)), 2.4), "wood") for x in (42.0, 51.0, 60.0)]
    posts = [Part(ribbon(line((x, 60), (x + lean, 12)), 3.6), "wood") for x, lean in ((34.0, -3.0), (68.0, 3.0))]
    rail = ribbon(curve((29, 16), (51, 12), (73, 16)), 13)
    stool = [Part(ribbon(line((27, 80), (75, 80)), 2.2), "wood")]
    return [*wood[:2], *slats, *posts, Part(rail), *stool, *wood[2:], Part(seat, relief=1.2)]  # Slatted café chair.
