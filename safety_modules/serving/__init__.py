"""A guarded model behind HTTP: OpenAI's chat and moderation, litellm's guardrail. Needs the extra `serve`.

service = Service(safety, ServeSettings(), Access(), "llava-pocket", {"name": "llava-pocket-safe"})
make_server(service).run()
"""

from safety_modules.serving.access import Access
from safety_modules.serving.app import create_app
from safety_modules.serving.server import make_server
from safety_modules.serving.service import Service
from safety_modules.serving.settings import ServeSettings

__all__ = ["Access", "ServeSettings", "Service", "create_app", "make_server"]
