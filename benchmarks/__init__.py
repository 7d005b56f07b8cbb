"""Measurements that are run from a clone and are no part of the package; README.md lists them."""
