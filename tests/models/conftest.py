"""Embeddings of the twins' instructions are kept in a folder of the tests."""

from functools import partial

import pytest

from icgeo.models import prompts


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        found = partial(prompts.cached_assets_path, assets_dir=tmp_path_factory.mktemp("assets"))
        patch.setattr(prompts, "cached_assets_path", found)
        yield
