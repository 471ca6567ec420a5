# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""CuPy arrays, objects that only have __cuda_array_interface__ or DLPack, and torch.compile."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from support import DEVICE, LIMITS, WITH_SCORE_MOD, Shape, alibi, causal, check, inputs, reference, slopes_of

import heed
from heed import gpu

pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="takes a GPU")
SHAPE = Shape(2, 4, 4, 150, 170)


def check_found(found: Any, arrays: list[torch.Tensor], score_mod: Any = None, mask_mod: Any = None) -> None:
    output = found if isinstance(found, torch.Tensor) else torch.as_tensor(found, device=DEVICE)
    assert output.device.type == "cuda"
    check((output, None), reference(*arrays, score_mod, mask_mod), limits=WITH_SCORE_MOD if score_mod else LIMITS)


@pytest.mark.parametrize("dtype", ("f16", "f32"))
def test_cupy(dtype: str) -> None:
    cupy = pytest.importorskip("cupy")
    arrays = inputs(SHAPE, dtype=dtype)
    q, k, v = (cupy.asarray(x) for x in arrays)
    found = heed.flex_attention(q, k, v, mask_mod=causal)
    assert isinstance(found, cupy.ndarray) and found.dtype == q.dtype
    check_found(found, arrays, None, causal)
    slopes = slopes_of(4)
    check_found(heed.flex_attention(q, k, v, alibi(cupy.asarray(slopes))), arrays, alibi(slopes))
    check_found(heed.flex_attention(q[:, ::2], k[:, ::2], v[:, ::2]), [x[:, ::2] for x in arrays])
    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        found = heed.flex_attention(q, k, v, mask_mod=causal)
    side.synchronize()
    check_found(found, arrays, None, causal)


class OnlyInterface:
    """Nothing but __cuda_array_interface__."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.__cuda_array_interface__ = tensor.__cuda_array_interface__


class OnlyDLPack:
    """Nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **arguments: Any) -> Any:
        return self._tensor.__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


@pytest.mark.parametrize("kind, dtype", [(OnlyInterface, "f16"), (OnlyInterface, "f32"), (OnlyDLPack, "bf16"), (OnlyDLPack, "f32")])
def test_protocols(kind: Any, dtype: str) -> None:
    """Heed does not know how such libraries make arrays: a kernel writes where it is told."""
    arrays = inputs(SHAPE, dtype=dtype)
    example = pathlib.Path(__file__).resolve().parents[2] / "examples" / "causal.heed"
    kernel = heed.compile(example, dtype=dtype, head_dim=arrays[0].shape[-1], target=gpu.target(DEVICE.index or 0))
    output = torch.empty_like(arrays[0])
    kernel(*map(kind, arrays), out=output)
    check_found(output, arrays, None, causal)
    with pytest.raises(heed.HeedError, match=f"not {kind.__name__}: give out="):
        heed.flex_attention(*map(kind, arrays), mask_mod=causal)


@pytest.mark.full
def test_torch_compile() -> None:
    slopes, arrays = slopes_of(4), inputs(SHAPE)

    def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return heed.flex_attention(q * 1, k, v, alibi(slopes), mask_mod=causal) + 0

    check_found(torch.compile(layer, fullgraph=True)(*arrays), arrays, alibi(slopes), causal)
