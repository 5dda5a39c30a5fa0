"""The paper, executable: Luo's 170 equations and their neighbours, each with its function and a
live numeric check (``marginals paper``)."""
