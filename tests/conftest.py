"""Before any test imports torch: its threads sleep while they wait, since several tests share the cores."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
