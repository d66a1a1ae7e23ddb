"""Attention over a picture's tiles, put back onto the picture. Pure torch."""

import torch

from safety_modules.config import BaseSizes
from safety_modules.policy.scores import HeadOutput


def put_back(output: HeadOutput, absent: torch.Tensor, sizes: BaseSizes) -> HeadOutput:
    """What a head says, with its attention as maps of whole pictures; see `on_picture`."""
    assert sizes.tile is not None
    return output._replace(attention=on_picture(output.attention, absent, sizes.tile, sizes.grid))


def on_picture(
    attention: torch.Tensor, absent: torch.Tensor, tile: tuple[int, int], grid: tuple[int, int]
) -> torch.Tensor:
    """Maps of whole pictures, from shares of attention over their features (`backbones.tiles`).

    The first tile is the whole picture, and so are the rows behind it: each patch's share goes to the cells of the map
    that it covers, in parts. What lies on the patches in all is what lies on the map.

    Args:
        attention: (B, Q, P).
        absent: (B, P), true where there is no patch: behind each row of the tiles, and behind the last.
        tile: rows and columns of a tile's patches.
        grid: rows and columns of the maps.

    Returns:
        (B, Q, rows x columns).
    """
    size = tile[0] * tile[1]
    found = []
    for shares, missing in zip(attention, absent.cpu(), strict=True):
        maps = _spread(shares[:, :size].unflatten(1, tile), grid)
        there = (~missing[size:]).nonzero()
        if len(there):
            columns = int(missing[size:].long().argmax())  # up to the first row's end
            rows = (int(there[-1]) + 2) // (columns + 1)
            fine = shares[:, size : size + rows * (columns + 1)]
            short = rows * (columns + 1) - fine.shape[1]  # of a batch cut behind the last patch
            fine = torch.nn.functional.pad(fine, (0, short)).unflatten(1, (rows, columns + 1))
            maps = maps + _spread(fine[..., :columns], grid)
        found.append(maps.flatten(1))
    return torch.stack(found) if found else attention.new_zeros(0, attention.shape[1], grid[0] * grid[1])


def _spread(shares: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(Q, rows, columns) of one grid over the picture on another one."""
    down, across = (
        _parts(old, new).to(shares.device, shares.dtype) for old, new in zip(shares.shape[1:], grid, strict=True)
    )
    return down @ shares @ across.T


def _parts(old: int, new: int) -> torch.Tensor:
    """Of each of `old` equal parts of a side the share that lies in each of `new` equal parts of it (new, old)."""
    low, high = torch.arange(old) / old, torch.arange(1, old + 1) / old
    begin, end = torch.arange(new)[:, None] / new, torch.arange(1, new + 1)[:, None] / new
    overlap = (torch.minimum(high, end) - torch.maximum(low, begin)).clamp(min=0)
    return overlap / overlap.sum(0)
