"""Draws shoes, clothes and caps. Each function returns the parts of one variant."""

from serve.demo.geometry import Part, Points, Stroke, both, box, curve, ellipse, line, mirror, path, ribbon


def sneaker(variant: int) -> list[Part]:
    high, chunky = variant in (1, 3), variant in (2, 3)
    top, sole = 20.0 if high else 36.0, 61.0 if chunky else 66.0
    collar = curve((12, top + 3), (21, top + 6), (30, top + 5), (37, top - 1))
    throat = curve((42, top - 1), (48, top + 6 if not high else top + 12), (57, 46), (67, 51.5))
    toe = curve((67, 51.5), (78, 53), (87, 56.5), (91.5, sole + 2))
    heel = curve((12, sole + 2), (10.5, 55), (12.5, 45), (12, top + 3))
    laces = [
        Stroke(line((x + 0.5, y - 2.5), (x - 6.5, y + 4.5)), 1.5, "lace")
        for x, y in throat[4 : -2 : 5 if not high else 4].tolist()
    ]
    tread = [Stroke(line((x, 78), (x, 75.2)), 0.7) for x in range(14, 92, 5)]
    return [
        Part(
            path(line((30, top + 8)), curve((34, top - 5), (40, top - 8), (45, top - 3)), line((58, 48), (46, 52))),
            "trim",
        ),
        Part(path(collar, throat, toe, line((91.5, sole + 4), (12, sole + 4)), heel), folds=0.06),
        Part(path(curve((76, 50), (74, 58), (78, sole + 4)), line((95, sole + 4), (95, 50))), "rubber", clipped=True),
        Part(
            path(curve((42, top - 4), (50, top + 4), (60, 44), (71, 49)), curve((66, 57), (52, 51), (40, top + 8))),
            "trim",
            strokes=laces,
            clipped=True,
        ),
        Part(path(curve((8, 40), (19, 47), (23, 57), (22, sole + 4)), line((8, sole + 4))), "trim", clipped=True),
        Part(ribbon(curve((34, sole + 3), (41, 57), (46, 53)), 3.4), "rubber", clipped=True, relief=0.3),
        Part(ribbon(curve((43, sole + 3), (49, 59), (54, 55)), 3.4), "rubber", clipped=True, relief=0.3),
        Part(
            path(
                curve((10, sole), (30, sole + 1.5), (62, sole + 1.5), (92, sole - 0.5)),
                curve((94.5, sole + 2), (94, 74), (87, 78)),
                curve((17, 78), (11, 76), (9, sole + 5)),
            ),
            "rubber",
            strokes=[*tread, Stroke(curve((10, sole + 4), (50, sole + 5.2), (94, sole + 3.2)), 0.9)],
        ),
    ]


def boot(variant: int) -> list[Part]:
    top = (36.0, 30.0, 10.0, 22.0)[variant]
    heel = 87.0 if variant != 3 else 89.0
    sole = 80.0
    upper = path(
        curve((28, top), (42, top + 1.5), (56, top - 1)),
        curve((56, top), (55, (top + 52) / 2), (56, 52), (63, 60), (77, 64), (88, 70), (90, sole)),
        curve((24, sole), (24, 70), (28, 56), (28, top)),
    )
    parts = [
        Part(ellipse(42, top, 14, 3), "lining"),
        Part(upper, folds=0.09, strokes=[Stroke(curve((58, 79), (60, 70), (66, 61)), 0.8)]),
        Part(path(curve((20, 66), (32, 67), (38, 74), (39, sole)), line((20, sole))), "trim", clipped=True),
    ]
    if variant == 0:
        ribs = [Stroke(line((x, top + 3), (x + 0.6, 62)), 0.6) for x in range(38, 50, 2)]
        panel = path(line((37, top + 2), (51, top + 1)), curve((51, 52), (46, 63), (40, 60), (36.5, 50)))
        parts.append(Part(panel, "dark", strokes=ribs, clipped=True))
        parts.insert(0, Part(ribbon(curve((27, top + 4), (25, top - 5), (29, top - 5), (30, top + 4)), 1.6), "trim"))
    elif variant == 1:
        edge = curve((56, top + 2), (54, 44), (55, 52), (62, 60), (68, 62))
        laces = [Stroke(line((x + 1, y - 0.5), (x - 7, y + 2.5)), 1.5, "lace") for x, y in edge[3:-6:5].tolist()]
        parts.append(Part(ribbon(edge - [2.5, 0], 11), "trim", strokes=laces, clipped=True))
    elif variant == 2:
        parts.append(Part(line((24, top - 4), (60, top - 4), (60, top + 9), (24, top + 9)), "trim", clipped=True))
        parts.append(Part(ribbon(curve((20, 58), (40, 62), (64, 57)), 4.5), "trim", clipped=True))
        parts.append(Part(box(44, 57.5, 51, 64.5, 1.5), "brass", relief=0.5))
    else:
        parts.append(Part(ribbon(line((40, top - 2), (42, 72)), 0.9), "steel", clipped=True, relief=0.2))
    heel_block = line((24, sole), (41, sole), (39 if variant != 3 else 35, heel + 1), (25, heel + 1))
    parts += [
        Part(heel_block, "dark"),
        Part(
            path(
                line((23.5, sole)),
                curve((91.5, sole - 1), (93, 84), (89, heel)),
                curve((62, heel), (50, 85), (40, 84)),
                line((23.5, 83)),
            ),
            "dark",
        ),
    ]
    return parts


def _top(neck: Points, sleeve: str, hem: float, width: float = 21.0) -> Points:
    """Outline a shirt-like garment; `neck` runs from its right end to the middle."""
    side = 50 + width
    arm = {
        "short": path(curve((69, 22), (78, 29), (91, 42)), curve((91, 42), (86, 47), (80.5, 50)), line((side, 42))),
        "long": path(
            curve((69, 22), (79, 32), (87, 55), (94, 78)), line((84, 81)), curve((84, 81), (77, 60), (side, 45))
        ),
        "none": path(curve((64, 20), (65, 29), (side, 40))),
        "cap": path(curve((68, 21), (75, 26), (81, 34)), curve((81, 34), (76, 37), (side, 40))),
    }[sleeve]
    half = path(
        neck[::-1], arm, curve((side, 45), (side - 1, 60), (side, hem - 2)), curve((side - 0.5, hem), (50, hem + 1.2))
    )
    return both(half)


def t_shirt(variant: int) -> list[Part]:
    deep = 36.0 if variant == 1 else 28.0
    neck = line((58.5, 18), (50, deep)) if variant == 1 else curve((58.5, 18), (56, 25), (50, deep))
    sleeve = "long" if variant == 2 else "short"
    seam = line((87, 39.5), (77.5, 47.5)) if sleeve == "short" else line((92.6, 75), (83.2, 78))
    armhole = curve((68, 22), (69.5, 32), (71, 43))
    collar = path(neck, mirror(neck)[::-1])
    strokes = [Stroke(part) for part in (armhole, mirror(armhole))]
    strokes += [Stroke(part, 0.6, "stitch") for part in (seam, mirror(seam), line((28, 84), (72, 84)))]
    parts = [
        Part(ellipse(50, 18.6, 9.5, 3.6), "lining"),
        Part(_top(neck, sleeve, 88), strokes=strokes, folds=0.16),
        Part(ribbon(collar, 3.2), "trim", relief=0.5),
    ]
    if variant == 3:
        parts.append(
            Part(
                path(line((55, 40), (66, 40), (66, 50)), curve((66, 51), (60.5, 55), (55, 51))),
                "trim",
                strokes=[Stroke(line((55, 42.3), (66, 42.3)), 0.6, "stitch")],
                relief=0.5,
            )
        )
    return parts


def hoodie(variant: int) -> list[Part]:
    zipped, cropped = variant == 1, variant == 2
    hem = 80.0 if cropped else 90.0
    neck = curve((61, 24), (57, 31), (50, 35))
    cuff = line((95, 78), (83, 82), (81.5, 75.5), (93.2, 71))
    armhole = curve((68, 24), (70, 34), (71, 45))
    pocket = both(
        path(
            line((50, hem - 27), (60, hem - 27)),
            curve((60, hem - 27), (66, hem - 20), (68, hem - 14)),
            line((68, hem - 7), (50, hem - 7)),
        )
    )
    strokes = [Stroke(armhole), Stroke(mirror(armhole))]
    parts = [
        Part(both(curve((50, 6), (61, 8), (67, 17), (66, 28), (58, 36), (50, 38))), folds=0.1),
        Part(both(curve((50, 12), (57, 14), (60.5, 22), (57, 30), (50, 35))), "lining"),
        Part(_top(neck, "long", hem, 21.5), strokes=strokes, folds=0.2),
        Part(pocket, strokes=[Stroke(pocket, 0.7, "stitch")], relief=0.6),
        Part(cuff, "trim"),
        Part(mirror(cuff), "trim"),
        Part(
            box(28, hem - 5, 72, hem + 1.5, 1.5),
            "trim",
            strokes=[Stroke(line((x, hem - 4), (x, hem + 1)), 0.4) for x in range(30, 72, 3)],
        ),
        Part(ribbon(path(neck, mirror(neck)[::-1]), 4.2), relief=0.8),
    ]
    if zipped:
        parts.append(
            Part(
                ribbon(line((50, 36), (50, hem + 1)), 1.8),
                "steel",
                relief=0.3,
                strokes=[Stroke(line((50, 36), (50, hem)), 0.4)],
            )
        )
    for sign in (-1, 1):
        cord = curve((50 + sign * 5, 34), (50 + sign * 6, 42), (50 + sign * 5, 51))
        parts += [Part(ribbon(cord, 1.3), "rubber", relief=0.2), Part(ribbon(cord[-4:], 2.0), "steel", relief=0.2)]
    return parts


def dress(variant: int) -> list[Part]:
    flare, hem = ((30.0, 87.0), (15.0, 84.0), (34.0, 97.0), (28.0, 92.0))[variant]
    waist = 11.5 if variant != 1 else 13.5
    skirt = path(
        curve((50 + waist, 44), (50 + waist + flare * 0.2, 55), (50 + waist + flare * 0.75, hem - 4)),
        curve((50 + waist + flare * 0.75, hem - 2), (62, hem), (50, hem + 0.8)),
    )
    bodice = curve((65, 28), (63.5, 36), (50 + waist, 44))
    if variant == 2:  # Straps over a straight bodice.
        top = curve((50, 23), (56, 22), (62, 20), (65, 27))
    elif variant == 1:  # Short sleeves.
        top = path(
            curve((50, 17), (55, 15), (57, 9)), curve((57, 9), (66, 12), (74, 20), (77, 27)), line((67, 31), (65, 28))
        )
    elif variant == 3:  # Long sleeves.
        top = path(
            line((50, 24), (56, 9)),
            curve((56, 9), (66, 13), (74, 32), (78, 52)),
            line((71, 54)),
            curve((71, 54), (68, 40), (65, 28)),
        )
    else:
        top = path(curve((50, 20), (55, 16), (57, 9)), line((63, 10)), curve((63, 10), (61.5, 20), (65, 28)))
    pleats = [
        Stroke(curve((50 + x * 0.55, 47), (50 + x, 60), (50 + x * 1.75, hem - 3)), 0.6)
        for x in (-12, -6, 0.5, 6.5, 12)
        if variant != 1
    ]
    parts = [Part(both(path(top, bodice, skirt)), strokes=pleats, folds=0.2)]
    if variant == 2:
        parts = [
            Part(ribbon(curve((sign * 9 + 50, 22), (sign * 7.5 + 50, 12), (sign * 6 + 50, 6)), 2), "trim")
            for sign in (-1, 1)
        ] + parts
    else:
        parts.insert(0, Part(ellipse(50, 10, 7.2, 3.4), "lining"))
    if variant != 1:
        parts.append(
            Part(
                both(
                    path(
                        line((50, 42)),
                        curve((50 + waist + 0.4, 41), (50 + waist - 0.2, 43.5), (50 + waist + 0.6, 46)),
                        line((50, 47)),
                    )
                ),
                "trim",
            )
        )
    if variant == 3:
        parts += [
            Part(ribbon(curve((50, 45), (54, 53), (52, 63)), 2.4), "trim"),
            Part(ribbon(curve((50, 45), (47, 52), (47, 60)), 2.4), "trim"),
            Part(ellipse(50, 44.5, 2.4, 2.2), "trim"),
        ]
    return parts


def trousers(variant: int) -> list[Part]:
    outer, inner, hem = ((65.0, 54.5, 95.0), (79.0, 54.0, 95.0), (66.0, 55.0, 82.0), (76.0, 53.0, 58.0))[variant]
    half = path(
        line((50, 8), (64.5, 8)),
        curve((64.5, 8), (68.5, 22), ((70 + outer) / 2 + 1, 22 + (hem - 22) * 0.42), (outer, hem)),
        line((inner, hem + 1)),
        curve((inner, hem), (52.5, 56 if hem > 60 else 48), (50, 37)),
    )
    crease = line((61, 22), ((outer + inner) / 2, hem))
    pocket = curve((57, 13.5), (60, 19), (66.5, 22))
    strokes = [Stroke(line((50, 13), (50, 37)), 0.8)]
    strokes += [Stroke(part, 0.6, "stitch") for part in (pocket, mirror(pocket), line((47, 14), (47, 26), (50, 30)))]
    strokes += [Stroke(part, 0.5) for part in (crease, mirror(crease))]
    loops = [Part(box(x - 0.9, 7, x + 0.9, 14.5, 0.8), relief=0.4) for x in (39, 61)]
    parts = [
        Part(ellipse(50, 8.2, 14, 2), "lining"),
        Part(both(half), strokes=strokes, folds=0.16),
        Part(both(path(line((50, 8), (64.5, 8)), line((66, 13.5), (50, 14)))), "trim"),
        *loops,
        Part(ellipse(50, 11, 1.3, 1.3), "brass", relief=0.3),
    ]
    if variant == 2:
        cuff = path(
            line((outer + 1, hem - 5), (outer + 0.8, hem + 1.2), (inner - 0.8, hem + 1.8), (inner - 1, hem - 4.5))
        )
        parts += [Part(cuff, "trim"), Part(mirror(cuff), "trim")]
    return parts


def cap(variant: int) -> list[Part]:
    if variant == 2:  # Bucket hat.
        crown = both(path(curve((50, 24), (64, 25), (70, 29)), line((75, 58)), curve((75, 58), (64, 61), (50, 62))))
        brim = both(
            path(
                curve((50, 56), (66, 55), (75, 54)),
                curve((75, 54), (84, 62), (91, 72)),
                curve((91, 72), (72, 80), (50, 81)),
            )
        )
        rings = [
            Stroke(both(curve((50, 60 + s), (70, 59 + s), (79 + s * 0.8, 57 + s)))[::1], 0.5, "stitch")
            for s in (6, 10, 14)
        ]
        return [
            Part(brim, strokes=rings),
            Part(crown, folds=0.06),
            Part(ribbon(curve((25.3, 56), (36, 59), (50, 60), (64, 59), (74.7, 56)), 4), "trim", clipped=True),
            Part(ellipse(33, 46, 1, 1), "brass"),
            Part(ellipse(67, 46, 1, 1), "brass"),
        ]
    crown = path(
        curve((14, 64), (14, 46), (24, 31), (42, 26), (58, 31), (66, 45), (68, 62)), curve((68, 62), (42, 67), (14, 64))
    )
    if variant == 1:
        brim = path(curve((46, 62), (66, 57), (82, 57), (97, 60)), curve((98, 62), (92, 66), (70, 69), (46, 68)))
    else:
        brim = path(
            curve((45, 63), (62, 55), (80, 57), (92, 65), (98, 75)), curve((97, 78), (86, 73), (70, 70), (45, 68))
        )
    seams = [
        Stroke(curve((42, 26), (47, 42), (46, 66)), 0.7),
        Stroke(curve((42, 26), (26, 40), (21, 65)), 0.7),
        Stroke(curve((42, 26), (60, 40), (66, 62)), 0.7),
    ]
    front = path(curve((42, 24), (47, 42), (46, 70)), line((72, 70), (72, 24)))
    return [
        Part(crown, strokes=seams, folds=0.05),
        *([Part(front, "rubber", clipped=True, strokes=[seams[2]])] if variant == 3 else []),
        Part(ellipse(42, 26, 3, 1.7), "trim"),
        Part(ellipse(35, 39, 0.9, 0.9), "dark", relief=0.2),
        Part(ellipse(54, 38, 0.9, 0.9), "dark", relief=0.2),
        Part(brim, "trim" if variant in (1, 3) else "body", strokes=[Stroke(brim * 0.88 + [8.8, 7.8], 0.5, "stitch")]),
    ]
