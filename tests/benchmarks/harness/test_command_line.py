from benchmarks.harness.command_line import benchmark_parser, command_line, source_label


def test_a_stored_command_has_no_paths_of_the_machine():
    arguments = ["--source", "/home/me/photos", "--output=/home/me/x.json", "--label", "two words"]
    arguments += ["--peers", "/home/me/peers/bin/python", "--data.shards=/home/me/set"]
    arguments += [
        "--config=/home/me/preset.yaml",
        "--folder",
        "runs/mine",
        "--config",
        "~/one.yaml",
    ]
    assert command_line("loader", arguments) == (
        'python -m benchmarks.loader --source PATH --output=PATH --label "two words" --peers PATH '
        "--data.shards=PATH --config=PATH --folder PATH --config PATH"
    )


def test_a_stored_command_keeps_names_and_numbers():
    arguments = ["--config=places2", "--config", "own.yaml", "--setup=default, 1/2", "--seconds=.5"]
    stored = command_line("generator", arguments)
    assert stored.endswith('--config=places2 --config own.yaml "--setup=default, 1/2" --seconds=.5')
    assert command_line("loader", ["--store=s3://bucket/x"]).endswith("--store=PATH")


def test_a_source_without_a_label_is_not_named():
    parser = benchmark_parser("loader", None)
    own = parser.parse_args(["--source=/home/me/photos"])
    assert source_label(own, "tiles") == "photographs of one's own"
    assert source_label(parser.parse_args([]), "tiles") == "tiles"
