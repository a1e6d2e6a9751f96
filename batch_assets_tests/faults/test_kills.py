"""A campaign of kills goes on where it ended, and says what it has done."""

import pytest

from batch_assets_tests.kills import LANES, TURN, Case, Done, State, main, told


def test_cases_are_the_same_for_ever_and_of_every_kind_and_engine() -> None:
    cases = [Case.of(number) for number in range(2 * len(TURN))]
    assert cases == [Case.of(number) for number in range(2 * len(TURN))]
    for lane, count in LANES.items():
        assert sum((c.kind, c.engine) == lane for c in cases) == 2 * count
    assert {c.again for c in cases} == {c.twice for c in cases} == {True, False}


def test_a_campaign_goes_on_where_it_was_even_if_it_was_killed_itself(tmp_path) -> None:
    state = State(tmp_path / "new" / "folder")
    for number, failed in ((0, None), (1, "AssertionError: torn"), (3, None)):
        state.add(Done(number, "features", "local", 0 if failed else 1, 2.0, failed))
    with state.path.open("a", encoding="utf-8") as file:
        file.write('{"number": 2, "kin')

    again = State(tmp_path / "new" / "folder")

    left = again.left()
    assert [next(left).number for _ in range(3)] == [1, 2, 4]
    assert (again.kills, len(again.failed)) == (2, 1)
    assert "2 kills survived, 1 not" in told(again, 1.0)
    again.add(Done(1, "features", "local", 1, 2.0))
    assert not State(tmp_path / "new" / "folder").failed


def test_without_time_it_says_what_is_left_and_of_no_engine_nothing(
    tmp_path, capsys
) -> None:
    asked = ["--state", str(tmp_path), "--engines", "local"]
    assert main([*asked, "--minutes", "0", "--kills", "7"]) == 0
    assert "say it again to go on to 7" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*asked, "--engines", "dask"])
    assert "expected some of local, ray, spark" in capsys.readouterr().err
