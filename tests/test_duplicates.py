"""The same image under several items is found, also scaled or compressed again; variants in other colours are not."""

import json
from pathlib import Path

import pytest
from PIL import Image

from serve import cli
from serve.core.settings import Settings
from serve.jobs.build import build
from serve.jobs.find_duplicates import find_duplicates


def test_copies_are_grouped_and_variants_are_not(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = [Image.open(path).convert("RGB") for path in sorted((shop / "images").iterdir())[:12]]
    lines = ["item_id,title,images"]
    for number, photo in enumerate(photos):
        photo.save(tmp_path / f"{number}.jpg", quality=92)
        lines.append(f"i{number},Thing,{number}.jpg")
    width, height = photos[3].size
    photos[3].resize((width * 2 // 3, height * 2 // 3)).save(tmp_path / "small.jpg", quality=60)
    (tmp_path / "same.jpg").write_bytes((tmp_path / "5.jpg").read_bytes())
    red, green, blue = photos[7].split()
    Image.merge("RGB", (blue, red, green)).save(tmp_path / "variant.jpg", quality=92)
    lines += ["copy,Copy,small.jpg|same.jpg", "variant,Variant,variant.jpg", "wordy,No image,"]
    (tmp_path / "feed.csv").write_text("\n".join(lines))
    settings = Settings(store=tmp_path / "store")
    build(settings, tmp_path / "feed.csv")
    (tmp_path / "9.jpg").unlink()  # since then
    report = find_duplicates(settings)
    assert report.images == 15
    assert sorted(sorted((copy.item_id, copy.image) for copy in group) for group in report.groups) == [
        [("copy", "same.jpg"), ("i5", "5.jpg")],
        [("copy", "small.jpg"), ("i3", "3.jpg")],
    ]
    out = tmp_path / "found.jsonl"
    monkeypatch.setattr("sys.argv", ["vetrina", "duplicates", "--store", str(settings.store), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert "2 groups among 15 photos" in capfd.readouterr().out
    assert {copy["item_id"] for line in out.open() for copy in json.loads(line)} == {"copy", "i3", "i5"}
