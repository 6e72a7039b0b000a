"""Settings of hypothesis for these tests."""

from __future__ import annotations

import hypothesis

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("http", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("http")
