"""The configuration: Hydra groups as YAML beside this file, and what composes and checks them."""
