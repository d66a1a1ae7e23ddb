"""What one server serves, as plain data: read and checked where it is started, loaded where it answers."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.format import CONFIG_FILE
from safety_modules.adapter.hub import find_adapter
from safety_modules.attach.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones.bases import check_wish, load_here, load_whole
from safety_modules.defences.guard.views import given_key
from safety_modules.io.files import sha256_of
from safety_modules.paths import adapter_for, checkpoint_dir
from safety_modules.policy.policy import Policy
from safety_modules.serving.access import Access
from safety_modules.serving.service import Service
from safety_modules.serving.settings import ServeSettings


@dataclass(frozen=True)
class Served:
    """Everything but the model itself.

    Attributes:
        settings: limits.
        access: keys.
        model: base, folder or hub id; None = llava-pocket.
        adapter: folder, shipped name or hub id.
        about: it, for /healthz.
        policy: None = the adapter's.
        name: the model's for clients.
        quantize, dtype: of the base.
        views_key: of the views that pictures are judged by, the same in every replica; without one in the environment
            a secret of this server's.
    """

    settings: ServeSettings
    access: Access
    model: str | None
    adapter: str
    about: dict[str, str]
    policy: Policy | None
    name: str
    quantize: str | None = None
    dtype: str | None = None
    views_key: bytes = field(default_factory=lambda: given_key() or secrets.token_bytes())

    @classmethod
    def read(
        cls,
        settings: ServeSettings,
        model: str | None = None,
        adapter: str | None = None,
        policy: Path | None = None,
        name: str | None = None,
        quantize: str | None = None,
        dtype: str | None = None,
    ) -> "Served":
        """Read what is named. What costs least comes first: a mistake in it is found before a base is loaded.

        Raises:
            SafetyModulesError: something is not there, or not as it should be.
        """
        access = Access() if settings.access is None else Access.from_yaml(settings.access)
        settings.check_reachable(bool(access.keys))
        rules = None if policy is None else Policy.from_yaml(policy)
        chosen = str(adapter_for(model, adapter))
        check_wish(model, quantize, dtype)
        found = read_adapter(find_adapter(chosen))
        about = {"name": adapter or Path(chosen).name, "sha256": sha256_of(found.path / CONFIG_FILE)}
        called = name or ("llava-pocket" if model is None else Path(model).name)
        return cls(settings, access, model, chosen, about, rules, called, quantize, dtype)

    def load(self) -> SafetyAttachment:
        """The guarded model."""
        if self.model is None:
            base, processor = load_whole(checkpoint_dir())
        else:
            base, processor = load_here(self.model, self.quantize, self.dtype)
        safety = attach_safety(base, processor, adapter=self.adapter)
        if self.policy is not None:
            safety.policy = self.policy
        if safety.modules.views is not None:
            safety.modules.views.key = self.views_key
        return safety

    def service(self) -> Service:
        """It, loaded, behind its routes."""
        safety = self.load()
        config = safety.backbone.model.config.get_text_config()
        room = getattr(config, "max_position_embeddings", None)
        return Service(safety, self.settings, self.access, self.name, self.about, room)
