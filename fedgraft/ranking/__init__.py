"""Ranking backbones and cuts for a federation's task before anything is trained: `fedgraft rank`."""
