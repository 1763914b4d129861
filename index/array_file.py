"""Arrays as npy files: memory-mapped, and refused by name where they are not what was written."""

from pathlib import Path
from typing import Any

import numpy as np

from index.errors import Damaged, Missing


def load_array(path: Path, dtype: type, shape: tuple[int, ...]) -> Any:
    """Memory-map the array in `path`; raises Missing, or Damaged where it is cut, pickled or of other kind or shape."""
    try:
        # A plain view of the mapping: np.memmap itself costs microseconds at every slice.
        array = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    except FileNotFoundError as error:
        raise Missing(f"{path} is missing", path.name) from error
    except Exception as error:  # of a broken header numpy also lets out what its parser raises, TokenError for one
        raise Damaged(f"{path} is not a whole array ({error})", path.name) from error
    if array.dtype != dtype or array.shape != shape:
        raise Damaged(
            f"{path} holds {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}{list(shape)}", path.name
        )
    return array
