"""What calls of the command line find imported and computed when they are forked."""

import functools

import pandas as pd
import scipy.stats
import sklearn.metrics

import bench.cli
from bench.machine import facts
from models import data, synthetic

__all__ = ["bench", "pd", "scipy", "sklearn"]

synthetic.draw = functools.cache(synthetic.draw)
data.load("synthetic")
facts.describe()
