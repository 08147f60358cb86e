from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from edgellm_core.checkpoint.gguf.plan import READ_TYPES
from edgellm_core.checkpoint.gguf.values import DTYPES, dequantize

BLOCKS = sorted(READ_TYPES - DTYPES.keys())


@pytest.mark.filterwarnings("ignore")  # some random scales are no finite numbers
@pytest.mark.parametrize("element_type", BLOCKS)
def test_blocks_mean_what_the_gguf_package_says(element_type):
    kind = gguf.GGMLQuantizationType[element_type]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    packed = np.random.default_rng(0).integers(0, 256, (7, 512 // elements * size), dtype=np.uint8)
    expected = gguf.dequantize(packed, kind)
    found = dequantize(torch.from_numpy(packed), element_type).numpy()
    assert found.shape == expected.shape == (7, 512)
    assert np.array_equal(found, expected, equal_nan=True)
