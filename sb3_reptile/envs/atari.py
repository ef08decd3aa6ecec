"""The former place of ``DqnCnn``, which is in :mod:`sb3_reptile.networks`."""

# Saved models and checkpoints name the class by this module
from sb3_reptile.networks import DqnCnn as DqnCnn
