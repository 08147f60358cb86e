"""Decoders lowered once and shared by the tests that run them."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

# pytest imports tests by path; this lets them share the modules of this folder that are no tests
sys.path.insert(0, str(Path(__file__).parent))


class Decoder(NamedTuple):
    """A transformers model, and its graph in ONNX Runtime."""

    model: object
    lowered: object
    session: object

    @property
    def vocab(self):
        return self.model.config.get_text_config().vocab_size


@pytest.fixture(scope="session")
def decoder():
    """Return a function from the name of a decoder to its model, lowered graph and session."""
    from decoders import family_of, fields_of

    from edgellm_core.testing.lowering import (
        lower_config,
        open_session,
        random_model,
        transformers_config,
        with_weights,
    )

    @functools.cache
    def make(name):
        config = transformers_config(fields_of(name))
        model = random_model(config)
        lowered = lower_config(config, family_of(name))
        return Decoder(model, lowered, open_session(with_weights(lowered, model)))

    return make


@pytest.fixture(scope="session")
def template():
    """Return a function from the name of a decoder to the template of some of its layers, in float16."""
    from decoders import deep, family_of

    from edgellm_core.events import Reporter
    from edgellm_core.testing.lowering import transformers_config
    from edgellm_core.tracing.trace import trace

    @functools.cache
    def make(name, *, full_depth=False):
        config = transformers_config(deep(name))
        return trace(config, family_of(name), "fp16", full_depth=full_depth, report=Reporter("trace"))

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models gain nothing from more threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def plain_family():
    """The family that changes nothing."""
    from edgellm_core.generic import GenericFamily

    return GenericFamily()


@pytest.fixture
def report():
    """A reporter that keeps its messages in ``report.messages``."""
    from edgellm_core.events import Reporter

    messages = []
    reporter = Reporter("trace", lambda event: messages.append(event.message))
    reporter.messages = messages
    return reporter
