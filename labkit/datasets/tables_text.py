"""Topics of the embedded set: the notes of an annual report, as data.

A topic is one kind of table: its line items, how a question names one of its cells, what its total
row is called and which facts may stand beside it. All of it is text, so that a reader can
extend the set without touching the generator: a new topic is one more entry in `TOPICS`.

Every noun phrase is singular ("the balance of trade payables"), so that questions built from it
agree with their verb whatever the line item is. Lists are written as one string split at ";".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One kind of table; strings that hold several alternatives separate them with ';'."""

    name: str
    """Unique key, also the subject of the lead sentence ("revenue by segment")."""
    rows: str
    """Pool of line items; a report draws a few. 'Label@unit' overrides the topic's unit."""
    nouns: str
    """How a question names a cell; `{row}` is the line item in running text."""
    columns: str = "flow"
    """flow: years, quarters · stock: dates · schedule: future years · a ';' list of facets."""
    total: str = ""
    """Labels of the total row; empty when the items do not add up."""
    unit: str = "money"
    """money, count, percent, share (money per share), years, or a physical unit such as 'kt'."""
    size: tuple[int, int] = (40, 900)
    """Range of the first value drawn for an item, in units of the table."""
    group: str = ""
    """What an item is ("segment"), where the items are a family of equals."""
    tags: str = ""
    """Which facts (tables_facts.py) may stand beside the table."""
    proper: bool = False
    """Line items keep their capitals in running text (names of places)."""
    signed: bool = False
    """Values may be negative."""


def _t(name: str, rows: str, nouns: str, **more: object) -> Topic:
    return Topic(name=name, rows=rows, nouns=nouns, **more)  # type: ignore[arg-type]


_REGIONS = ("North America;Europe;Asia Pacific;Latin America;Middle East and Africa;Nordics;"
            "United Kingdom;Germany;France;Japan;China;Brazil;Canada;India;Australia;Spain")

TOPICS: tuple[Topic, ...] = (
    # Income statement.
    _t("revenue by segment",
       "Cloud services;Consulting;Hardware;Maintenance;Licences;Training;Payments;Advertising;"
       "Data centres;Security;Logistics;Packaging;Coatings;Instruments;Filtration;Animal health",
       "{row} revenue;revenue from {row};the revenue of {row};sales of the {row} segment",
       total="Total revenue;Revenue;Total;Net sales", group="segment;business segment",
       tags="revenue business"),
    _t("revenue by region", _REGIONS,
       "revenue from {row};{row} revenue;revenue in {row};sales in {row}",
       total="Total revenue;Total;Group revenue", group="region;market", proper=True,
       tags="revenue business"),
    _t("revenue by customer type",
       "Retail chains;Hospitals;Government;Utilities;Wholesalers;Airlines;Car makers;Farmers;"
       "Schools;Builders;Insurers;Telecom operators;Shipyards",
       "revenue from {row};sales to {row};the revenue earned from {row}",
       total="Total;Total revenue;Net revenue", group="customer type;customer group",
       tags="revenue"),
    _t("net sales by product line",
       "Bread;Dairy;Frozen meals;Snacks;Pet food;Coffee;Juices;Confectionery;Baby food;Sauces;"
       "Cereals;Spices",
       "net sales of {row};{row} sales;sales of {row}",
       total="Net sales;Total net sales;Total", group="product line;category",
       tags="revenue business"),
    _t("operating expenses",
       "Research and development;Sales and marketing;General and administrative;Depreciation;"
       "Amortisation of intangibles;Restructuring;Impairment;Professional fees;Facilities;Travel",
       "{row} expense;the {row} cost;spending on {row}",
       total="Total operating expenses;Operating expenses;Total", tags="cost",
       group="expense category"),
    _t("cost of sales",
       "Materials;Direct labour;Freight;Energy;Royalties;Warranty;Plant depreciation;Scrap;"
       "Subcontractors;Customs duties;Tooling",
       "the {row} cost;the cost of {row};cost of sales for {row}",
       total="Total cost of sales;Cost of sales;Total", tags="cost", group="cost item"),
    _t("pension cost",
       "Service cost;Interest cost;Past service cost;Settlement loss;Administration fees;"
       "Defined contribution plans;Amortisation of prior losses;Curtailment loss",
       "{row};the amount of {row};the charge for {row}",
       total="Net pension cost;Total pension cost;Net periodic cost", size=(11, 190),
       tags="pension", group="component"),
    _t("share-based compensation expense",
       "Cost of revenue;Research and development;Sales and marketing;General and administrative;"
       "Customer support;Discontinued operations",
       "share-based compensation in {row};the share-based expense in {row}",
       total="Total;Total share-based compensation;Total expense", size=(12, 240),
       tags="shares", group="function"),
    _t("income tax expense",
       "Current federal;Current state;Current foreign;Deferred federal;Deferred state;"
       "Deferred foreign;Adjustments for prior years",
       "{row} tax;the {row} tax expense;the tax charge for {row}",
       total="Income tax expense;Total income tax;Provision for income taxes", size=(14, 320),
       signed=True, tags="tax"),
    _t("finance costs",
       "Interest on bonds;Interest on bank loans;Lease interest;Commitment fees;"
       "Unwinding of discounts;Foreign exchange losses;Hedging costs;Overdraft interest",
       "the cost of {row};{row};the amount of {row}",
       total="Finance costs;Total finance costs;Total", size=(11, 160), tags="debt"),
    _t("restructuring charges",
       "Severance;Site closures;Contract terminations;Asset write-downs;Relocation;Legal fees;"
       "Consultants",
       "the charge for {row};{row} charges;the {row} cost",
       total="Total restructuring charges;Total charges;Total", size=(11, 140), tags="cost"),
    _t("fees of the auditor",
       "Audit fees;Audit-related fees;Tax advice;Due diligence;Assurance services;Other fees",
       "the amount of {row};the charge for {row};{row}",
       total="Total fees;Total;Fees of the auditor", size=(25, 980), tags="audit"),
    _t("capital expenditure by segment",
       "Upstream;Refining;Chemicals;Retail;Networks;Terminals;Mining;Shipping;Storage;Renewables",
       "capital expenditure in {row};{row} capex;capital spending on {row}",
       total="Total capital expenditure;Total;Group capex", group="segment;division",
       tags="assets business"),
    _t("segment operating profit",
       "Hotels;Casinos;Restaurants;Cruises;Theme parks;Ticketing;Cinemas;Sports;Radio;Publishing;"
       "Music;Games",
       "the operating profit of {row};{row} operating profit;operating profit in {row}",
       total="Operating profit;Total;Segment operating profit", group="segment;division",
       signed=True, tags="revenue business"),
    # Cash flow.
    _t("cash flows",
       "Operating activities;Investing activities;Financing activities;"
       "Discontinued activities;Exchange rate effects",
       "cash flow from {row};the net cash flow from {row};{row} cash flow",
       total="Net change in cash;Change in cash;Net increase (decrease) in cash", signed=True,
       tags="cash"),
    # Balance sheet.
    _t("inventories",
       "Raw materials;Work in progress;Finished goods;Spare parts;Packaging materials;"
       "Goods in transit;Consumables;Supplies",
       "the balance of {row};{row} inventory;inventory held as {row}",
       columns="stock", total="Total inventories;Inventories;Total", tags="inventory"),
    _t("deferred tax assets",
       "Net operating losses;Tax credits;Accrued bonuses;Lease liabilities;Warranty reserves;"
       "Deferred revenue;Pension obligations;Bad debt allowance;Stock awards",
       "the deferred tax asset for {row};deferred tax on {row};the tax asset from {row}",
       columns="stock", total="Total deferred tax assets;Gross deferred tax assets;Total",
       tags="tax"),
    _t("accrued liabilities",
       "Payroll and benefits;Customer deposits;Interest;Taxes payable;Product warranty;Rebates;"
       "Legal claims;Royalties;Utilities;Insurance",
       "the accrual for {row};the balance of {row};accrued {row}",
       columns="stock", total="Total accrued liabilities;Accrued liabilities;Total",
       tags="liability"),
    _t("property, plant and equipment",
       "Land;Buildings;Machinery;Vehicles;Office furniture;Computers;Leasehold improvements;"
       "Construction in progress;Aircraft;Pipelines",
       "the carrying amount of {row};the balance of {row};the book value of {row}",
       columns="stock", total="Property, plant and equipment;Total;Net book value", tags="assets"),
    _t("borrowings",
       "Term loan;Senior notes;Revolving facility;Convertible bonds;Commercial paper;Mortgages;"
       "Equipment loans;Bank overdrafts;Export credits",
       "the balance of {row};the amount owed on {row};the carrying amount of {row}",
       columns="stock", total="Total debt;Total borrowings;Total", tags="debt"),
    _t("trade receivables by age",
       "Not yet due;1 to 30 days;31 to 60 days;61 to 90 days;Over 90 days",
       "the receivables balance {row};the amount of receivables {row}",
       columns="stock", total="Total receivables;Trade receivables;Total", tags="receivable"),
    _t("contract balances",
       "Contract assets;Unbilled receivables;Deferred revenue;Customer advances;Refund liability;"
       "Costs to obtain contracts",
       "the balance of {row};the amount of {row}", columns="stock", tags="contract"),
    _t("goodwill by cash-generating unit",
       "Dental;Optics;Diagnostics;Surgery;Imaging;Pharmacy;Home care;Veterinary;Laboratories",
       "the goodwill of {row};goodwill allocated to {row};{row} goodwill",
       columns="stock", total="Total goodwill;Goodwill;Total", group="unit;cash-generating unit",
       tags="intangible business"),
    _t("provisions",
       "Warranties;Litigation;Decommissioning;Onerous contracts;Environmental clean-up;"
       "Employee claims;Returns",
       "the provision for {row};provisions for {row}",
       columns="stock", total="Total provisions;Provisions;Total", size=(11, 260),
       tags="liability"),
    _t("cash and cash equivalents",
       "Cash at bank;Money market funds;Treasury bills;Short-term deposits;Restricted cash;"
       "Certificates of deposit",
       "the balance of {row};the amount held in {row}", columns="stock",
       total="Total cash;Cash and cash equivalents;Total", tags="cash"),
    # Schedules: the future years are the lines, the categories the columns.
    _t("future lease payments",
       "Operating leases;Finance leases;Short-term leases;Vehicle leases;Property leases",
       "the payment on {row};the amount due on {row}", columns="schedule", total="Total",
       size=(12, 380), tags="lease"),
    _t("debt maturities", "Bonds;Bank loans;Private placements;Term loans;Notes",
       "the amount of {row} maturing;the repayment of {row}", columns="schedule", total="Total",
       tags="debt"),
    _t("expected amortisation expense",
       "Customer relationships;Patents;Software;Brands;Licences;Technology",
       "amortisation of {row};the expected amortisation of {row}", columns="schedule",
       total="Total", size=(11, 190), tags="intangible"),
    # Other units.
    _t("employees by function",
       "Production;Sales;Engineering;Administration;Customer care;Distribution;Design;"
       "Quality control;Field service",
       "the number of employees in {row};headcount in {row};{row} headcount", columns="stock",
       total="Total employees;Total headcount;Total", unit="count", size=(40, 2400),
       group="function;department", tags="staff"),
    _t("stores by country",
       "Poland;Italy;Portugal;Austria;Greece;Ireland;Denmark;Finland;Hungary;Romania;Chile;Peru",
       "the number of stores in {row};the store count in {row}", columns="stock",
       total="Total stores;Total", unit="count", size=(14, 420), proper=True, group="country",
       tags="stores"),
    _t("production volumes",
       "Copper;Zinc;Nickel;Iron ore;Bauxite;Lithium;Potash;Coal;Lead;Cobalt",
       "{row} production;output of {row};the volume of {row} produced",
       unit="kt", size=(21, 900), group="commodity;metal", tags="volume"),
    _t("greenhouse gas emissions",
       "Fuel;Electricity;Fleet;Business travel;Refrigerants;Waste;Steam;Freight",
       "emissions from {row};{row} emissions", total="Total emissions;Total", unit="tonnes",
       size=(60, 2400), group="source", tags="volume"),
    # Rates.
    _t("gross margin by segment",
       "Footwear;Apparel;Accessories;Eyewear;Watches;Fragrance;Luggage;Home textiles",
       "the gross margin of {row};{row} gross margin;the margin in {row}", unit="percent",
       size=(180, 620), group="segment;product group", tags="revenue business"),
    _t("pension assumptions",
       "Discount rate;Salary growth;Price inflation;Pension increases;Return on plan assets;"
       "Medical cost trend",
       "the {row};the assumed {row};the {row} assumption", columns="stock", unit="percent",
       size=(14, 68), tags="pension"),
    _t("assumptions of the option pricing model",
       "Expected volatility;Risk-free rate;Dividend yield;Expected life (years)@years;"
       "Forfeiture rate;Fair value per option@share",
       "the {row};the {row} used;the {row} assumption", unit="percent", size=(11, 480),
       tags="shares"),
    _t("earnings per share",
       "Net income@money;Weighted average shares@money;Basic earnings per share@share;"
       "Diluted earnings per share@share;Dividend per share@share",
       "{row};the {row} figure;reported {row}", size=(140, 990), tags="shares"),
    # Facets: the columns are not periods.
    _t("intangible assets",
       "Customer lists;Trade names;Patents;Software;Licences;Non-compete agreements;Technology;"
       "Franchise rights",
       "{row}", columns="Gross amount;Accumulated amortisation;Net amount;Useful life (years)",
       size=(30, 700), tags="intangible"),
    _t("fixed assets", "Buildings;Machinery;Vehicles;Furniture;Computers;Vessels;Laboratories",
       "{row}", columns="Cost;Accumulated depreciation;Net book value;Useful life (years)",
       size=(30, 900), tags="assets"),
)

ALIASES = {
    "research and development": "R&D",
    "general and administrative": "G&A",
    "work in progress": "WIP",
    "middle east and africa": "MEA",
    "united kingdom": "UK",
    "property, plant and equipment": "PP&E",
    "asia pacific": "APAC",
}
"""Shorter names a question may use for a line item; none fits two items of one table."""

LEADS = (
    "{name}: {topic}.", "Note {n}. {Topic} of {name}.", "The table shows the {topic} of {name}.",
    "{name} reports its {topic} below.", "{Topic} of {name} were as follows.",
    "The {topic} of {name} is set out below.", "{n}. {Topic}", "Annual report of {name}: {topic}.",
    "{name} presents {topic} as follows.", "Note {n}: {topic} ({name}).",
)

SCALE_NOTES = (
    "All amounts are in {scale}s of {money}.", "Figures are stated in {scale}s of {money}.",
    "Amounts are given in {scale}s of {money} unless noted.",
    "({money} in {scale}s)", "The amounts in the table are in {scale}s of {money}.",
)

DISTRACTORS = (
    "Comparative figures were not restated.", "Some figures may not add up because of rounding.",
    "These figures are unaudited.", "No single customer exceeded 10% of the total.",
    "Actual results could differ from these estimates.", "See note {n} for the accounting policy.",
    "The board approved these accounts in {month}.", "The figures exclude joint ventures.",
    "Intercompany balances have been eliminated.", "The presentation follows IFRS.",
)
