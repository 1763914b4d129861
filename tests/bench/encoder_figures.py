"""The figures of the encoders bench."""

from dataclasses import dataclass, field


@dataclass
class Figures:
    """What was measured of one library's models."""

    families: int = 0
    fp32: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)
