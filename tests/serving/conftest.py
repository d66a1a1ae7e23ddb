"""A guarded pocket behind a server, one for all tests that need no limits of their own."""

import hashlib

import pytest

KEY, OPERATOR = "web-key", "operator-key"


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from serving_cases import served

    from safety_modules.serving import Access

    def key(name, secret, *may):
        return {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "may": may}

    access = Access.model_validate({"keys": [key("web", KEY), key("operator", OPERATOR, "off", "report", "looser")]})
    with served(access=access) as running:
        running.key = KEY
        yield running
