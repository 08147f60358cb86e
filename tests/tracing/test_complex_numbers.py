"""Complex numbers as pairs, against numpy's complex numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgellm_core.tracing.complex_numbers import complex_pairs

RANDOM = np.random.default_rng(0)
PARTS = RANDOM.standard_normal((2, 3, 4, 2)).astype(np.float32)
ANGLES = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
NUMBERS = PARTS[..., 0] + 1j * PARTS[..., 1]
TURNS = 2 * np.exp(1j * ANGLES)

OPERATIONS = {
    "product of complex": (lambda x, turn: x * turn, lambda x, turn: x * turn),
    "product with a number": (lambda x, turn: 3.0 * (x * 2.0), lambda x, turn: x * 6.0),
    "product with a real tensor": (lambda x, turn: x * torch.from_numpy(ANGLES), lambda x, turn: x * ANGLES),
    "product by broadcasting": (lambda x, turn: x.unsqueeze(1) * turn[:, None, :1],
                                lambda x, turn: x[:, None] * turn[:, None, :1]),
    "index": (lambda x, turn: x[:, 1:, None], lambda x, turn: x[:, 1:, None]),
    "device": (lambda x, turn: turn.to(x.device), lambda x, turn: turn),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_pairs_compute_what_complex_numbers_do(name):
    ours, theirs = OPERATIONS[name]
    with complex_pairs():
        numbers = torch.view_as_complex(torch.from_numpy(PARTS))
        turns = torch.polar(torch.full((2, 3, 4), 2.0), torch.from_numpy(ANGLES))
        result = ours(numbers, turns)
        found = torch.view_as_real(result).numpy()
    expected = theirs(NUMBERS, TURNS)
    assert tuple(result.shape) == expected.shape
    np.testing.assert_allclose(found[..., 0], expected.real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[..., 1], expected.imag, rtol=1e-5, atol=1e-6)


UNKNOWN = {
    "sum": lambda x: x + x,
    "conjugate": lambda x: x.conj(),
    "element type": lambda x: x.to(torch.complex128),
    "other function": torch.abs,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_a_pair_can_not_do_raises(name):
    with complex_pairs(), pytest.raises((TypeError, AttributeError)):
        UNKNOWN[name](torch.view_as_complex(torch.from_numpy(PARTS)))


def test_torch_gets_its_functions_back():
    with complex_pairs():
        pass
    assert torch.view_as_complex(torch.from_numpy(PARTS)).dtype == torch.complex64
    assert torch.polar(torch.ones(2), torch.ones(2)).dtype == torch.complex64
