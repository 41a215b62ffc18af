"""What the HTTP side knows of the replicas: who is there, who has gone, and how large an image they can answer."""

from ovss_ray.serve.deployments.replica import Figures
from ovss_ray.serve.pace import Pace
from ovss_ray.serve.watch import LINES, News, Watch


def replicas(*names: str, each: float = 0.0) -> list[Figures]:
    return [Figures(name, {}, 0, {}, {"segment": Pace(1, each * (1 + number))}) for number, name in enumerate(names)]


def test_pools_add_up_the_slowest_replica_counts_and_is_remembered_when_all_have_gone() -> None:
    watch = Watch()
    assert watch.pixels(["a-0"], "segment", 10, 7_000_000) == 7_000_000, "nothing is known yet"
    last = [Figures("z", {}, 0, {}, {"segment": Pace(0, 3)})]
    watch.note({"a-0": replicas("x", "y", each=1.0), "a-1": last, "b-0": []})
    assert watch.pixels(["a-0"], "segment", 10, 7_000_000) == 3_000_000
    assert watch.pixels(["a-0", "a-1"], "segment", 10, 7_000_000) == 1_200_000
    assert watch.pixels(["b-0"], "segment", 10, 7_000_000) == 7_000_000
    watch.note({"a-0": [], "a-1": None, "b-0": []})
    assert watch.pixels(["a-0"], "segment", 10, 7_000_000) == 3_000_000


def test_a_line_tells_of_each_replica_that_has_gone_and_of_the_one_in_its_place() -> None:
    watch = Watch()
    for answer in (["x"], None, ["x", "y"], ["y"], [], ["z"], ["z", "w"], ["z", "w", "v"]):
        watch.note({"a-0": None if answer is None else replicas(*answer), "b-0": replicas("other")})
    assert watch.lines == [
        "a-0: replica y has started",
        "a-0: replica x has gone; 1 left",
        "a-0: replica y has gone; none left",
        "a-0: replica z has started in its place",
        "a-0: replica w has started in its place",
        "a-0: replica v has started",
    ]
    assert watch.restarts == {"a-0": 2}


def test_a_pool_without_a_replica_is_not_ready_and_one_that_is_too_busy_to_answer_is_what_it_was() -> None:
    watch = Watch()
    assert watch.unready(["a-0"]) == [], "which the first image decides"
    watch.note({"a-0": replicas("x"), "a-1": [], "b-0": None})
    assert watch.unready(["a-0", "a-1", "b-0"]) == ["a-1"]
    watch.note({"a-0": [], "a-1": replicas("y"), "b-0": None})
    assert watch.unready(["a-0", "a-1"]) == ["a-0"]
    watch.note({"a-0": None, "a-1": None, "b-0": None})
    assert watch.unready(["a-0", "a-1"]) == ["a-0"]


def test_a_line_comes_once_also_after_many_and_those_of_another_http_process_from_its_first_one_on() -> None:
    watch, news = Watch(), News()
    watch.note({"a-0": replicas("x")})
    for name in ("y", "z"):
        watch.note({"a-0": replicas(name)})
    assert news.answered(watch.name, watch.dropped, watch.lines) == watch.lines
    assert len(watch.lines) == 4
    assert news.answered(watch.name, watch.dropped, watch.lines) == []
    for number in range(LINES):
        watch.note({"a-0": replicas(f"{number}")})
        if number % 7 == 0:
            assert news.answered(watch.name, watch.dropped, watch.lines)[-1] == watch.lines[-1]
    assert len(watch.lines) == LINES
    news.answered(watch.name, watch.dropped, watch.lines)
    watch.note({"a-0": replicas("last")})
    assert news.answered(watch.name, watch.dropped, watch.lines) == watch.lines[-2:]
    assert news.answered("other", 0, ["a-0: replica w has gone; none left"]) == [
        f"http: replica {watch.name} has gone; none left",
        "http: replica other has started in its place",
        "a-0: replica w has gone; none left",
    ]


def test_a_line_says_that_the_http_process_has_gone_and_another_why_it_does_not_start() -> None:
    news = News()
    assert news.answered("one", 0, []) == []
    assert news.silent("") == ["http: replica one has gone; none left"]
    assert news.silent("") == []
    (line,) = news.silent("NameError: name 'cache' is not defined")
    assert line.startswith("http: no replica starts: NameError: name 'cache' is not defined. Ray Serve tries again")
    assert news.silent("NameError: name 'cache' is not defined") == news.silent("") == []
    assert len(news.silent("ImportError: no")) == 1
    assert news.answered("two", 0, []) == ["http: replica two has started in its place"]
    assert news.silent("") == ["http: replica two has gone; none left"]
