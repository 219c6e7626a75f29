"""One file per family of formats: bytes to raw arrays and back; units and checks are in ``io``."""
