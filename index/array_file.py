"""Memory-map arrays in npy files and reject files with unexpected content."""

from pathlib import Path
from typing import Any

import numpy as np

from index.errors import IndexDamaged, IndexMissing


def load_array(path: Path, dtype: type, shape: tuple[int, ...]) -> Any:
    """Memory-map the array in `path`.

    Raises:
        IndexMissing: the file does not exist.
        IndexDamaged: the file is truncated or pickled, or has another dtype or shape.
    """
    try:
        # A plain view of the mapping: slicing an np.memmap costs microseconds each time.
        array = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    except FileNotFoundError as error:
        raise IndexMissing(f"{path} is missing", path.name) from error
    except Exception as error:  # for a broken header numpy also raises errors of its parser, such as TokenError
        raise IndexDamaged(f"{path} is not a complete array ({error})", path.name) from error
    if array.dtype != dtype or array.shape != shape:
        raise IndexDamaged(
            f"{path} holds {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}{list(shape)}", path.name
        )
    return array
