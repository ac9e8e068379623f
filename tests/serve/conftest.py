"""A service for two users with keys, a client of each, and a browser, Debian's Chromium, for the page."""

import os
import shutil
from collections.abc import Iterator

import httpx2
import pytest
import torch
from services import Running, keys, running
from visits import SECONDS

from gnm.conversation import Conversation
from gnm.learners import LearnerSettings, build_learner
from gnm.weights.backbones import load_backbone


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    """A service with its ordinary settings, shared by the tests of a file."""
    with running(tmp_path_factory.mktemp("memories"), keys()) as started:
        yield started


@pytest.fixture
def anna(service) -> Iterator[httpx2.Client]:
    with service.client("anna") as client:
        yield client


@pytest.fixture
def ben(service) -> Iterator[httpx2.Client]:
    with service.client("ben") as client:
        yield client


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    playwright.expect.set_options(timeout=SECONDS)
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=rights)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A service for two users, with untrained gates that half of a text passes."""
    settings = LearnerSettings(method="gnm", write={"gates": {"threshold": 0.0, "share": 0.5}})
    backbone = load_backbone("tiny", dtype="float32")
    learner = build_learner(settings, backbone, training=True)
    with torch.no_grad():
        weight = learner.lm.gating.gate.weight
        weight.copy_(torch.linspace(-9, 9, weight.shape[0]))
    model = Conversation(learner.eval(), backbone, {}, "gated")
    with running(tmp_path_factory.mktemp("memories"), keys(), model) as started:
        yield started
