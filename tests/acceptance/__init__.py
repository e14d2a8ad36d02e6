import pytest

# What a judge asserts is explained like what a test asserts.
pytest.register_assert_rewrite("tests.acceptance.night_judge")
