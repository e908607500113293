"""Tests of the package `drover`: python3 -m unittest, in the folder above."""
