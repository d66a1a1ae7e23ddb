"""EXPERIMENTAL: the guard in front of vLLM, as an endpoint plugin of its API server (docs/serving-vllm.md)."""
