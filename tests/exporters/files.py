"""Files of SQLite in tests: their rows and size, and files that are in the way."""

import sqlite3


def rows(path, query, *values):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def total_bytes(path):
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


def not_a_database(path):
    path.write_bytes(b"no database\n" * 1000)
    return path.unlink


def another_program(path):
    rows(path, "CREATE TABLE theirs (x)")
    return path.unlink


def directory_in_its_place(path):
    path.mkdir()
    return path.rmdir
