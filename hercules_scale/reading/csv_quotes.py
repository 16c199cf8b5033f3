"""Stream of csv with checked quotes: none stays open, and all are in one form."""

from __future__ import annotations

import re
from typing import Any

from hercules_scale.errors import InputError
from hercules_scale.reading.dialect import Dialect

BLOCK_BYTES = 2**20
# A quote is likely missing if at least ROW_LIKE_LINES lines of a field look like rows, and at least
# ROW_LIKE_SHARE of its lines. FEWER_LINES suffice in all fields together if rows have more
# delimiters than sentences. In a file of one column, every line looks like a row: there, LONE_LINES
# lines in a single long field are needed.
ROW_LIKE_LINES, FEWER_LINES, ROW_LIKE_SHARE, LONE_LINES = 10, 3, 0.9, 50


class QuotedRows:
    """Stream of csv as in RFC 4180, made from a stream in another dialect, for a reader of bytes.

    Escaped quotes are doubled. In a file with newlines as ends of lines, a lone carriage return
    outside quotes becomes a space, since readers would take it for the end of a row.

    Args:
        stream: Binary stream of UTF-8.
        where: The file, for messages.
        dialect: Dialect of the file.
        longest: Largest number of bytes between two quotes.

    Attributes:
        alarms: Alarms about the stream.
    """

    closed = False

    def __init__(self, stream: Any, where: str, dialect: Dialect, longest: int) -> None:
        self.alarms: list[str] = []
        self._stream, self._where, self._longest = stream, where, longest
        self._quote, self._escape = dialect.quote.encode(), dialect.escape.encode()
        self._delimiter = dialect.delimiter.encode()
        self._comments, self._unnamed = dialect.comments, dialect.unnamed
        ends = re.escape(self._delimiter) + rb"\r\n"
        self._opening = re.compile(rb"[" + ends + rb"]" + re.escape(self._quote))
        marks = filter(None, (self._quote, self._escape))
        self._mark = re.compile(b"|".join(map(re.escape, marks)) or b"(?!)")
        mark = re.escape(self._quote) or rb"\0"
        # A whole field, after a delimiter and before one.
        self._field = re.compile(
            rb"(?<![^%b])%b((?:[^%b]++|%b%b)*+)%b(?=[%b])" % (ends, *[mark] * 5, ends)
        )
        self._ends = (self._delimiter, b"\r", b"\n")
        self._out, self._held = bytearray(), b""
        self._begun = self._ended = self._inside = False
        # Whether a field begins here, where a quote would open.
        self._starts = True
        self._newline, self._delimiters = b"\n", 0
        # Number of the line that is read, and of the line in which the open quote begins.
        self._line = self._opened = 1
        self._length = self._lines = self._row_like = self._stray = self._returns = 0
        # Number of fields of many lines in a file of one column; line and length of the first.
        self._n_long, self._long = 0, (0, 0)
        # Number of lines within fields, number of these that look like rows, line of the first such
        # field.
        self._all_lines = self._all_row_like = self._first_row_like = 0

    def read(self, n_bytes: int) -> bytes:
        """Return a number of bytes, fewer at the end.

        Raises:
            InputError: A quote is still open at the end, or for too long.
        """
        while len(self._out) < n_bytes and not self._ended:
            block = bytes(self._stream.read(BLOCK_BYTES))
            self._ended = not block
            self._feed(self._held + block)
        found = bytes(self._out[:n_bytes])
        del self._out[:n_bytes]
        return found

    def readable(self) -> bool:
        """Return True, as files that can be read do."""
        return True

    def close(self) -> None:
        """Do nothing; the caller closes the stream."""

    def _feed(self, data: bytes) -> None:
        self._held = b""
        if not self._begun:
            data = self._begin(data)
        if data.endswith(b"\r") and not self._ended:
            data, self._held = data[:-1], b"\r"
        at = 0 if self._inside or self._escape or not self._quote else self._whole_rows(data)
        while at < len(data):
            at = self._within(data, at) if self._inside else self._outside(data, at)
        if self._inside and (self._ended or self._length > self._longest):
            until = "the end of the file" if self._ended else f"{self._longest >> 20} MiB further"
            raise InputError(
                f"{self._where}: the quote that opens in line {self._opened:,} is not closed until "
                f"{until}; close or double it, or set input.csv.quote to '' if the file has none"
            )
        if self._ended:
            self._say_counts()

    def _begin(self, data: bytes) -> bytes:
        """Find the kind of newline and the width of the header in the first line.

        Lines before the header are removed, and a field without a name gets an empty one.
        """
        self._begun = True
        data = data.removeprefix(b"\xef\xbb\xbf")
        if re.match(rb'"?sep=%b"?\r?\n' % re.escape(self._delimiter), data):
            data = data.partition(b"\n")[2]
            self._line += 1
        for _ in range(self._comments):
            data = data.partition(b"\n")[2]
            self._line += 1
        if self._unnamed == "first":
            data = self._delimiter + data
        first = re.search(rb"\r\n?|\n", data)
        if first is not None:
            end = first.start()
            if self._unnamed == "last":
                data = data[:end] + self._delimiter + data[end:]
            self._newline = b"\r" if first[0] == b"\r" else b"\n"
            self._delimiters = data.count(self._delimiter, 0, end + 1)
        return data

    def _whole_rows(self, data: bytes) -> int:
        """Pass on the rows of a block at once if each quote that opens closes in it.

        Returns:
            End of these rows; 0 if the block must be read quote by quote.
        """
        end = data.rfind(b"\n") + 1
        rows = data[:end]
        if self._newline != b"\n" or rows.count(b"\r") != rows.count(b"\r\n"):
            return 0
        unquoted = self._field.sub(b"", rows)
        opens = unquoted.startswith(self._quote) or self._opening.search(unquoted)
        if opens or not self._starts:
            return 0
        n_lines = rows.count(b"\n")
        if n_lines > unquoted.count(b"\n"):
            for field in self._field.finditer(rows):
                if b"\n" in field[1]:
                    self._opened = self._line + rows.count(b"\n", 0, field.start())
                    self._lines = self._row_like = 0
                    self._look_for_rows(field[1])
                    self._say_row_like()
        self._out += rows
        self._line += n_lines
        return end

    def _outside(self, data: bytes, at: int) -> int:
        """Pass on the bytes up to the next quote that opens, and return their end."""
        opens = -1
        if self._quote:
            if self._starts and data.startswith(self._quote, at):
                opens = at
            elif found := self._opening.search(data, at):
                opens = found.start() + 1
        stop = len(data) if opens < 0 else opens + 1
        span = data[at:stop]
        if self._newline == b"\n" and b"\r" in span:
            # A block ends with a carriage return only at the end of the file.
            span, count = re.subn(rb"\r(?!\n)", b" ", span)
            self._returns += count
        self._out += span
        self._line += span.count(self._newline)
        self._starts = span.endswith(self._ends)
        if opens >= 0:
            self._inside, self._opened = True, self._line
            self._length = self._lines = self._row_like = 0
        return stop

    def _within(self, data: bytes, at: int) -> int:
        """Pass on the bytes up to the quote that closes, and return their end."""
        start = at
        while found := self._mark.search(data, at):
            place, mark, after = found.start(), found[0], data[found.start() + 1 : found.end() + 1]
            if not after and not self._ended:
                # The next character decides what this mark means.
                self._take(data[start:place])
                self._held = data[place:] + self._held
                return len(data)
            if mark == self._escape:
                if after in (self._quote, self._escape):
                    self._take(data[start:place] + (after * 2 if after == self._quote else after))
                    start = place + 2
                at = place + 1 + (after in (self._quote, self._escape))
            elif after == self._quote:
                at = place + 2
            else:
                self._take(data[start : place + 1])
                self._close(after)
                return place + 1
        self._take(data[start:])
        return len(data)

    def _take(self, span: bytes) -> None:
        self._out += span
        self._length += len(span)
        if self._newline in span:
            self._line += span.count(self._newline)
            self._look_for_rows(span)

    def _look_for_rows(self, span: bytes) -> None:
        inner = span.split(self._newline)[1:-1]
        self._lines += len(inner)
        self._row_like += sum(line.count(self._delimiter) == self._delimiters for line in inner)

    def _close(self, after: bytes) -> None:
        self._inside, self._starts = False, False
        if after and after not in self._ends:
            self._stray += 1
            if self._stray == 1:
                self._first_stray = self._line
        self._say_row_like()

    def _say_row_like(self) -> None:
        if not self._delimiters:
            if self._lines >= ROW_LIKE_LINES:
                self._n_long += 1
                self._long = self._long if self._n_long > 1 else (self._opened, self._lines)
        elif self._row_like >= max(ROW_LIKE_LINES, ROW_LIKE_SHARE * self._lines):
            self.alarms.append(
                f"{self._where}: the field that begins in line {self._opened:,} holds "
                f"{self._row_like:,} lines that look like rows; a quote is likely missing"
            )
        else:
            self._all_lines += self._lines
            self._all_row_like += self._row_like
            self._first_row_like = self._first_row_like or self._opened * (self._row_like > 0)

    def _say_counts(self) -> None:
        is_rare = self._delimiters > 2 or (self._delimiters and self._delimiter == b"\t")
        least = max(FEWER_LINES if is_rare else ROW_LIKE_LINES, ROW_LIKE_SHARE * self._all_lines)
        if self._all_row_like >= least and not self.alarms:
            self.alarms.append(
                f"{self._where}: {self._all_row_like:,} lines within quoted fields look like rows, "
                f"the first in the field that begins in line {self._first_row_like:,}; set "
                "input.csv.quote to '' if quotes enclose no fields"
            )
        if self._n_long == 1 and self._long[1] >= LONE_LINES:
            self.alarms.append(
                f"{self._where}: the field that begins in line {self._long[0]:,} holds "
                f"{self._long[1]:,} lines, and no other as many as {ROW_LIKE_LINES}; a quote is "
                "likely missing"
            )
        if self._stray:
            self.alarms.append(
                f"{self._where}: {self._stray:,} quoted fields go on after the quote that closes "
                f"them, the first in line {self._first_stray:,}; set input.csv.escape where quotes "
                "are escaped"
            )
        if self._returns:
            self.alarms.append(
                f"{self._where}: {self._returns:,} carriage returns within rows were read as spaces"
            )
