"""Tests of `sb3_reptile.meta`."""
