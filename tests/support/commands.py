"""Runs the `neurocuda` command within a test."""

from typer.testing import CliRunner

from neurocuda.cli.app import app


def command(*words: object, code: int = 0, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Run the command, check its exit code; what it printed to stdout and stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words], env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout, result.stderr
