"""Our two classes inside a CFGpp checkout: `python -m samplers.dropin`; docs/dropin.md."""
