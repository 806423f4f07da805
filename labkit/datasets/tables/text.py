"""Topics of the embedded set: the notes of an annual report, as data.

A topic is one kind of table: its line items, how a question names one of its cells, what its total
row is called and which facts may stand beside it. All of it is text, so that a reader can extend
the set without touching the generator: a new topic is one more entry in `TOPICS`.

Line items are written `[-~]Label[@unit[:low:high]]`: '-' makes the numbers negative, '~' makes
them negative now and then, the unit and the range of the first number override the topic's.
Noun phrases are singular ("the balance of trade payables"), so that questions built from them agree
with their verb whatever the line item is. Alternatives are written as one string, split at ";".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One kind of table; strings that hold several alternatives separate them with ';'."""

    name: str
    """Unique key, also the subject of the lead sentence ("revenue by segment")."""
    rows: str
    """Pool of line items; a report draws a few."""
    nouns: str
    """How a question names a cell; `{row}` is the line item in running text."""
    columns: str = "flow"
    """flow: years, quarters · stock: dates · schedule: years to come · a ';' list of facets."""
    total: str = ""
    """Labels of the total row; empty when the items do not add up."""
    unit: str = "money"
    """money, percent, share (money per share), years, or a count such as 'count', 'kt'."""
    size: tuple[int, int] = (40, 900)
    """Range of the first value drawn for an item, in the table's last decimal."""
    group: str = ""
    """What an item is ("segment"), where the items are a family of equals."""
    tags: str = ""
    """Which facts (facts.py) may stand beside the table."""
    reasons: str = ""
    """Which reasons (banks.py) explain a movement; empty: none is given."""
    proper: bool = False
    """Line items keep their capitals in running text (names of places)."""


def _t(name: str, rows: str, nouns: str, **more: object) -> Topic:
    return Topic(name=name, rows=rows, nouns=nouns, **more)  # type: ignore[arg-type]


TOPICS: tuple[Topic, ...] = (
    # Income statement.
    _t("revenue by segment",
       "Cloud services;Consulting;Hardware;Maintenance;Licences;Training;Payments;Advertising;"
       "Data centres;Security;Logistics;Packaging;Coatings;Instruments;Filtration;Animal health;"
       "Other businesses",
       "{row} revenue;revenue from {row};the revenue of {row};sales of {row}",
       total="Total revenue;Revenue;Total;Net sales", group="segment",
       tags="revenue segment part", reasons="segment"),
    _t("revenue by region",
       "North America;Europe;Asia Pacific;Latin America;Middle East and Africa;Nordics;Germany;"
       "United Kingdom;France;Japan;China;Brazil;Canada;India;Australia;Spain",
       "revenue from {row};{row} revenue;revenue in {row};sales in {row}",
       total="Total revenue;Total;Group revenue", group="region", proper=True,
       tags="revenue led part", reasons="region"),
    _t("revenue by customer type",
       "Retail chains;Hospitals;Government;Utilities;Wholesalers;Airlines;Car makers;Farmers;"
       "Schools;Builders;Insurers;Telecom operators;Shipyards;Other customers",
       "revenue from {row};sales to {row};the revenue earned from {row}",
       total="Total;Total revenue;Net revenue", group="customer group",
       tags="revenue part", reasons="region"),
    _t("net sales by product line",
       "Bread;Dairy;Frozen meals;Snacks;Pet food;Coffee;Juices;Confectionery;Baby food;Sauces;"
       "Cereals;Spices;Other products",
       "net sales of {row};{row} sales;sales of {row}",
       total="Net sales;Total net sales;Total", group="product line",
       tags="revenue segment stores part", reasons="segment"),
    _t("segment operating profit",
       "Hotels;~Casinos;Restaurants;~Cruises;Theme parks;Ticketing;~Cinemas;Sports;Radio;"
       "Publishing;Music;~Games",
       "the operating profit of {row};{row} operating profit;operating profit in {row}",
       total="Operating profit;Total;Segment operating profit", group="segment",
       tags="segment event", reasons="segment"),
    _t("operating expenses",
       "Research and development;Sales and marketing;General and administrative;Depreciation;"
       "Amortisation of intangibles;Restructuring;Impairment;Professional fees;Facilities;Travel",
       "{row} expense;the {row} cost;spending on {row}",
       total="Total operating expenses;Operating expenses;Total", group="expense category",
       tags="cost", reasons="cost"),
    _t("cost of sales",
       "Materials;Direct labour;Freight;Energy;Royalties;Warranty;Plant depreciation;Scrap;"
       "Subcontractors;Customs duties;Tooling",
       "the {row} cost;the cost of {row};cost of sales for {row}",
       total="Total cost of sales;Cost of sales;Total", group="cost item",
       tags="cost inventory", reasons="cost"),
    _t("pension cost",
       "Service cost;Interest cost;Settlement loss;Administration fees;Curtailment loss;"
       "Defined contribution plans;-Expected return on assets;Amortisation of prior losses",
       "the amount of {row};the figure for {row};the charge for {row}",
       total="Net pension cost;Total pension cost;Net periodic cost", size=(20, 190),
       tags="pension", reasons="pension"),
    _t("share-based compensation",
       "Cost of revenue;Research and development;Sales and marketing;General and administrative;"
       "Customer support;Discontinued operations",
       "share-based compensation in {row};the share-based expense in {row}",
       total="Total;Total share-based compensation;Total expense", size=(12, 240),
       group="function", tags="shares", reasons="grants"),
    _t("income tax expense",
       "Current federal;Current state;Current foreign;~Deferred federal;~Deferred state;"
       "~Deferred foreign",
       "{row} tax;the {row} tax expense;the tax charge for {row}",
       total="Income tax expense;Total income tax;Provision for income taxes", size=(14, 320),
       tags="tax", reasons="tax"),
    _t("the tax rate reconciliation",
       "Statutory rate@percent:190:290;State taxes@percent:5:32;~Foreign rate differences"
       "@percent:4:48;-Research credits@percent:5:29;Non-deductible items@percent:4:31;"
       "-Tax-exempt income@percent:6:30",
       "the percentage for {row};the figure for {row}",
       total="Effective tax rate", unit="percent", tags="tax"),
    _t("finance costs",
       "Interest on bonds;Interest on bank loans;Lease interest;Commitment fees;Overdraft interest;"
       "Unwinding of discounts;Foreign exchange losses;Hedging",
       "the charge for {row};the expense for {row};the amount of {row}",
       total="Finance costs;Total finance costs;Total", size=(11, 160), tags="debt",
       reasons="interest"),
    _t("restructuring charges",
       "Severance;Site closures;Contract terminations;Asset write-downs;Relocation;Legal fees;"
       "Consultants",
       "the charge for {row};{row} charges;the {row} cost",
       total="Total restructuring charges;Total charges;Total", size=(11, 140), tags="closure"),
    _t("fees of the auditor",
       "Audit fees;Audit-related fees;Tax advice;Due diligence;Assurance services;Other fees",
       "the amount of {row};the charge for {row}",
       total="Total fees;Total;Fees of the auditor", size=(25, 980), tags="audit"),
    _t("capital expenditure by segment",
       "Upstream;Refining;Chemicals;Retail;Networks;Terminals;Mining;Shipping;Storage;Renewables",
       "capital expenditure in {row};{row} capex;capital spending on {row}",
       total="Total capital expenditure;Total;Group capex", group="segment",
       tags="capex segment", reasons="capex"),
    _t("earnings per share",
       "Net income;Weighted average share count@shares;Basic earnings per share@share;"
       "Diluted earnings per share@share;Dividend per share@share",
       "{row}", tags="shares dividend"),
    # Cash flow.
    _t("cash flows",
       "Operating activities@money:300:900;-Investing activities@money:90:420;"
       "~Financing activities@money:20:190;~Discontinued activities@money:11:70;"
       "~Exchange rate effects@money:11:40",
       "cash flow from {row};the net cash flow from {row};{row} cash flow",
       total="Net change in cash;Change in cash;Net increase in cash", tags="cash dividend"),
    # Balance sheet.
    _t("inventories",
       "Raw materials;Work in progress;Finished goods;Spare parts;Packaging materials;"
       "Goods in transit;Consumables;Supplies",
       "the balance of {row};{row} inventory;inventory held as {row}",
       columns="stock", total="Total inventories;Inventories;Total", group="inventory class",
       tags="inventory", reasons="inventory"),
    _t("deferred tax assets",
       "Net operating losses;Tax credits;Accrued bonuses;Lease liabilities;Warranty reserves;"
       "Deferred revenue;Pension obligations;Bad debt allowance;Stock awards;Other differences",
       "the deferred tax asset for {row};deferred tax on {row};the tax asset from {row}",
       columns="stock", total="Total deferred tax assets;Gross deferred tax assets;Total",
       group="component", tags="tax", reasons="tax"),
    _t("accrued liabilities",
       "Payroll and benefits;Customer deposits;Interest;Taxes payable;Product warranty;Rebates;"
       "Legal claims;Royalties;Utilities;Insurance",
       "the accrual for {row};the balance of {row};the accrued amount of {row}",
       columns="stock", total="Total accrued liabilities;Accrued liabilities;Total",
       tags="liability", reasons="liability"),
    _t("property, plant and equipment",
       "Land;Buildings;Machinery;Vehicles;Office furniture;Computers;Leasehold improvements;"
       "Construction in progress;Aircraft;Pipelines",
       "the carrying amount of {row};the balance of {row};the book value of {row}",
       columns="stock", total="Total;Net book value;Total PP&E",
       group="asset class", tags="assets capex", reasons="capex"),
    _t("borrowings",
       "Term loan;Senior notes;Revolving facility;Convertible bonds;Commercial paper;Mortgages;"
       "Equipment loans;Bank overdrafts;Export credits",
       "the balance of {row};the amount owed on {row};the carrying amount of {row}",
       columns="stock", total="Total debt;Total borrowings;Total", tags="debt loans",
       reasons="debt"),
    _t("trade receivables by age",
       "Not yet due;1 to 30 days;31 to 60 days;61 to 90 days;Over 90 days",
       "the receivables balance {row};the amount of receivables {row}",
       columns="stock", total="Total receivables;Trade receivables;Total",
       tags="receivable", reasons="receivable"),
    _t("contract balances",
       "Contract assets;Unbilled receivables;Deferred revenue;Customer advances;Refund liability;"
       "Costs to obtain contracts",
       "the balance of {row};the amount of {row}", columns="stock", tags="contract receivable",
       reasons="receivable"),
    _t("goodwill by business unit",
       "Dental;Optics;Diagnostics;Surgery;Imaging;Pharmacy;Home care;Veterinary;Laboratories",
       "the goodwill of {row};goodwill allocated to {row};{row} goodwill",
       columns="stock", total="Total goodwill;Goodwill;Total", group="business unit",
       tags="intangible segment", reasons="goodwill"),
    _t("provisions",
       "Warranties;Litigation;Decommissioning;Onerous contracts;Environmental clean-up;"
       "Employee claims;Returns",
       "the provision for {row};provisions for {row}",
       columns="stock", total="Total provisions;Provisions;Total", size=(11, 260),
       tags="liability", reasons="liability"),
    _t("cash and cash equivalents",
       "Cash at bank;Money market funds;Treasury bills;Short-term deposits;Restricted cash;"
       "Certificates of deposit",
       "the balance of {row};the amount held in {row}", columns="stock",
       total="Total cash;Cash and cash equivalents;Total", tags="cash", reasons="cash"),
    # Roll-forwards: the closing balance is the next period's opening balance.
    _t("the allowance for doubtful accounts",
       "Opening balance;Additions@money:11:150;-Write-offs@money:11:90;-Reversals@money:11:60;"
       "~Exchange differences@money:11:30;Closing balance",
       "the figure for {row};the {row} figure", size=(60, 420), tags="receivable"),
    _t("the warranty provision",
       "Opening balance;New provisions@money:11:190;-Amounts used@money:11:120;"
       "-Reversals@money:11:60;Acquisitions@money:11:90;Closing balance",
       "the figure for {row};the {row} figure", size=(60, 420), tags="liability"),
    _t("unrecognised tax benefits",
       "Opening balance;Current year positions@money:11:120;Prior year positions@money:11:60;"
       "-Settlements@money:11:80;-Expired statutes@money:11:50;Closing balance",
       "the figure for {row};the {row} figure", size=(60, 420), tags="tax"),
    # Schedules: the future years are the lines, the categories the columns.
    _t("future lease payments",
       "Operating leases;Finance leases;Short-term leases;Vehicle leases;Property leases",
       "the payment on {row};the amount due on {row}", columns="schedule", total="Total",
       size=(12, 380), tags="lease"),
    _t("debt maturities", "Bonds;Bank loans;Private placements;Term loans;Notes",
       "the amount of {row} maturing;the repayment of {row}", columns="schedule", total="Total",
       tags="debt loans"),
    _t("expected amortisation expense",
       "Customer relationships;Patents;Software;Brands;Licences;Technology",
       "amortisation of {row};the expected amortisation of {row}", columns="schedule",
       total="Total", size=(11, 190), tags="intangible"),
    # Counts and quantities.
    _t("employees by function",
       "Production;Sales;Engineering;Administration;Customer care;Distribution;Design;"
       "Quality control;Field service",
       "the number of employees in {row};headcount in {row};{row} headcount", columns="stock",
       total="Total employees;Total headcount;Total", unit="count", size=(40, 2400),
       group="function", tags="staff", reasons="staff"),
    _t("stores by country",
       "Poland;Italy;Portugal;Austria;Greece;Ireland;Denmark;Finland;Hungary;Romania;Chile;Peru",
       "the number of stores in {row};the store count in {row}", columns="stock",
       total="Total stores;Total", unit="count", size=(14, 420), proper=True, group="country",
       tags="stores led", reasons="stores"),
    _t("mine production",
       "Copper;Zinc;Nickel;Iron ore;Bauxite;Lithium;Potash;Coal;Lead;Cobalt",
       "{row} production;output of {row};the volume of {row} produced",
       unit="kt", size=(21, 900), group="commodity", tags="volume segment", reasons="volume"),
    _t("greenhouse gas emissions",
       "Fuel;Electricity;Fleet;Business travel;Refrigerants;Waste;Steam;Freight",
       "emissions from {row};{row} emissions", total="Total emissions;Total", unit="tonnes",
       size=(60, 2400), group="source", tags="emissions", reasons="emissions"),
    # Rates.
    _t("gross margin by brand",
       "Footwear;Apparel;Accessories;Eyewear;Watches;Fragrance;Luggage;Home textiles",
       "the gross margin of {row};{row} gross margin;the margin on {row}", unit="percent",
       size=(180, 620), group="product group", tags="revenue segment stores", reasons="margin"),
    _t("the share of sales by channel",
       "Online;Own shops;Wholesale;Franchise partners;Outlets;Department stores;Telesales",
       "the share of sales from {row};the sales share of {row}", unit="percent", size=(60, 430),
       group="channel", tags="revenue stores", reasons="margin"),
    _t("pension assumptions",
       "Discount rate;Salary growth;Price inflation;Pension growth;Return on plan assets;"
       "Medical cost trend",
       "the {row};the assumed {row};the {row} assumption", columns="stock", unit="percent",
       size=(14, 68), tags="pension"),
    _t("option pricing assumptions",
       "Expected volatility@percent:180:620;Risk-free rate@percent:4:45;Dividend yield@percent:5:"
       "48;Expected life (years)@years;Forfeiture rate@percent:20:110;Fair value per option@share",
       "the {row};the {row} used;the {row} assumption", unit="percent", tags="shares"),
    # Facets: the columns are not periods.
    _t("intangible assets",
       "Customer lists;Trade names;Patents;Software;Licences;Non-compete agreements;Technology;"
       "Franchise rights",
       "{row}", columns="Gross amount;Accumulated amortisation;Net amount;Useful life (years)",
       size=(30, 700), group="asset class", tags="intangible"),
    _t("fixed assets", "Buildings;Machinery;Vehicles;Furniture;Computers;Vessels;Laboratories",
       "{row}", columns="Cost;Accumulated depreciation;Net book value;Useful life (years)",
       size=(30, 900), group="asset class", tags="capex"),
)

ALIASES = {
    "research and development": "R&D",
    "general and administrative": "G&A",
    "work in progress": "WIP",
    "Middle East and Africa": "MEA",
    "United Kingdom": "UK",
    "Asia Pacific": "APAC",
    "basic earnings per share": "basic EPS",
    "diluted earnings per share": "diluted EPS",
}
"""Shorter names a question may use for a line item; none fits two items of one table."""

LEADS = (
    "{name}: {topic}.", "Note {n}. {Topic} of {name}.", "The table shows {topic} at {name}.",
    "{name} reports {topic} below.", "{n}. {Topic}", "Annual report of {name}: {topic}.",
    "{name} presents {topic} as follows.", "Note {n}: {topic} ({name}).",
    "This note covers {topic} at {name}.", "{name} discloses {topic} in this note.",
)

SCALE_NOTES = (
    "All amounts are in {scale}s of {money}.", "Figures are stated in {scale}s of {money}.",
    "Amounts are given in {scale}s of {money}.", "({money} in {scale}s)",
    "(in {scale}s of {money})", "The amounts in the table are in {scale}s of {money}.",
    "(1) In {scale}s of {money}.",
)

DISTRACTORS = (
    "Comparative figures were not restated.", "Totals may be affected by rounding.",
    "These figures are unaudited.", "Actual results may differ from these estimates.",
    "See note {n} for the accounting policy.", "The board approved these accounts in {month}.",
    "The figures exclude joint ventures.", "The presentation follows IFRS.",
    "Intercompany balances have been eliminated.", "Prior-year figures were reclassified.",
    "(1) Excluding joint ventures.", "(1) Restated, see note {n}.", "(1) Unaudited.",
    "(1) Continuing operations only.",
)
"""Sentences that answer nothing; one that opens with (1) is the footnote of the header cell."""
